"""The PyTorch worker; its environment needs torch and numpy, not kdjax.

`python -m experiments.benchmark.torch_side`, started by the benchmark; see `protocol`.
"""

import contextlib
import json
import pathlib
import platform
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from experiments.benchmark import cases, ceiling, input_torch, networks_torch
from experiments.benchmark.input_torch import DEVICE
from experiments.benchmark.protocol import Prepared, Reply, serve
from experiments.benchmark.weights import torch_weights

Step = Callable[..., torch.Tensor]


def describe() -> Reply:
    """Returns versions, device and number of threads."""
    gpu = DEVICE.type == "cuda"
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "device": "gpu" if gpu else "cpu",
        "device_name": torch.cuda.get_device_name() if gpu else "",
        "threads": torch.get_num_threads(),
        "ceilings": {
            name: {"PyTorch": _ceiling(dtype, "gpu" if gpu else "cpu")}
            for name, dtype in (
                (ceiling.FLOAT32, torch.float32),
                (ceiling.BFLOAT16, torch.bfloat16),
            )
        },
    }


def _ceiling(dtype: torch.dtype, device: str) -> float:
    side = ceiling.side_length(device)
    matrix = torch.ones((side, side), dtype=dtype, device=DEVICE)
    with torch.no_grad():
        return ceiling.rate(lambda: matrix @ matrix, lambda _: _synchronize(), side)


def prepare(
    resources: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns a variant of a case, ready to be timed; see `protocol.serve`."""
    if not case["student"]:
        count = cases.INPUT_EPOCHS * steps * batch
        input_loader = input_torch.make_loader(count, batch, augmented=True)
        return Prepared({cases.INPUT: lambda: _read_epoch(input_loader)})
    loader = input_torch.make_loader(steps * batch, batch, augmented=not variant["cached"])
    student, step = _training(case, variant)
    cached = torch.randn(steps * batch, cases.CLASSES, device=DEVICE)
    log = pathlib.Path(resources.enter_context(tempfile.TemporaryDirectory()), "log.jsonl")
    *_, (images, labels, _) = input_torch.iterate_batches(loader)

    def steps_on_one_batch() -> None:
        for _ in range(steps):
            step(images, labels, cached[:batch] if variant["cached"] else None)
        _synchronize()

    def epoch_with_log() -> None:
        metrics = []
        for number, (images, labels, indices) in enumerate(input_torch.iterate_batches(loader), 1):
            teacher_logits = cached[indices] if variant["cached"] else None
            metrics.append(step(images, labels, teacher_logits))
            if number % cases.LOG_EVERY == 0 or number == steps:
                _log_means(log, number, metrics)
                metrics = []

    parameters = sum(value.numel() for value in student.parameters())
    phases = {cases.STEP: steps_on_one_batch, cases.EPOCH: epoch_with_log}
    if not case["teacher"]:
        phases[cases.FORWARD] = _forward(case["student"], variant, batch, steps)
    return Prepared(phases, parameters)


def _forward(network: str, variant: dict[str, Any], batch: int, steps: int) -> Callable[[], None]:
    """Returns forward passes in evaluation mode, from uint8 images to logits."""
    model = _network(network, cases.CLASSES).eval()
    forward = torch.compile(model) if variant["compiled"] else model
    images, _ = cases.examples(batch)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE)
    bfloat16 = variant["dtype"] == "bfloat16"

    def passes() -> None:
        for _ in range(steps):
            with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
                forward(input_torch.normalize(pixels)).float().cpu()

    return passes


def _log_means(path: pathlib.Path, step: int, metrics: list[torch.Tensor]) -> None:
    loss, accuracy = torch.stack(metrics).mean(0).tolist()
    with path.open("a") as file:
        print(json.dumps({"step": step, "loss": loss, "accuracy": accuracy}), file=file)


def _read_epoch(loader: DataLoader) -> None:
    for _ in input_torch.iterate_batches(loader):
        pass
    _synchronize()


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _training(case: dict[str, Any], variant: dict[str, Any]) -> tuple[nn.Module, Step]:
    """Returns the student and a step `(images, labels, cached logits or None) -> [2]`.

    The step returns loss and accuracy.
    """
    has_teacher = bool(case["teacher"])
    student = _network(case["student"], cases.CLASSES + has_teacher).train()
    teacher = None
    if has_teacher and not variant["cached"]:
        teacher = _network(case["teacher"], cases.CLASSES).eval().requires_grad_(False)
    forward = torch.compile(student) if variant["compiled"] else student
    teacher_forward = torch.compile(teacher) if teacher and variant["compiled"] else teacher
    optimizer = _optimizer(student)
    bfloat16 = variant["dtype"] == "bfloat16"

    def step(
        images: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None
    ) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            if teacher_forward is not None:
                with torch.no_grad():
                    teacher_logits = teacher_forward(images).float()
            logits = forward(images).float()
        if teacher_logits is None:
            loss = functional.cross_entropy(logits, labels)
        else:
            loss = networks_torch.ka_gambler_sum(logits, teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct = logits[:, : cases.CLASSES].argmax(1) == labels
        return torch.stack((loss.detach(), correct.float().mean()))

    return student, step


def _network(name: str, outputs: int) -> nn.Module:
    return networks_torch.create(name, outputs).to(DEVICE, memory_format=torch.channels_last)


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    trained = [value for value in network.parameters() if value.requires_grad]
    matrices = [value for value in trained if value.ndim > 1]
    vectors = [value for value in trained if value.ndim == 1]
    return torch.optim.SGD(
        [{"params": matrices, "weight_decay": cases.WEIGHT_DECAY}, {"params": vectors}],
        lr=cases.LEARNING_RATE,
        momentum=cases.MOMENTUM,
        nesterov=True,
    )


def agreement(network: str, folder: str) -> Reply:
    """Writes `torch.npy`, the logits for the weights and images in the folder.

    Returns:
        `loss`, the objective of these logits with the reversed logits as the teacher's.
    """
    directory = pathlib.Path(folder)
    with np.load(directory / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(array) for name, array in torch_weights(arrays).items()}
    images = torch.from_numpy(np.load(directory / "images.npy")).permute(0, 3, 1, 2).to(DEVICE)
    model = _network(network, cases.CLASSES + 1).eval()
    keys = model.load_state_dict(weights, strict=False)
    missing = [name for name in keys.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise ValueError(f"missing weights {missing}, unexpected {keys.unexpected_keys}")
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = model(images).cpu()
    np.save(directory / "torch.npy", logits.numpy())
    labels = torch.arange(len(logits)) % cases.CLASSES
    loss = networks_torch.ka_gambler_sum(logits, logits[:, :-1].flip(0), labels)
    return {"loss": loss.item()}


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    serve(prepare, describe=describe, agreement=agreement)
