"""The PyTorch worker; runs in an environment with torch, without kdjax.

`python -m experiments.benchmark.torch_side`, started by the driver, see `protocol`.
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

from experiments.benchmark import cases, input_torch, networks_torch
from experiments.benchmark.input_torch import DEVICE
from experiments.benchmark.protocol import Prepared, Reply, serve
from experiments.benchmark.weights import torch_weights

Step = Callable[..., torch.Tensor]


def describe() -> Reply:
    """Returns what this side is and runs on."""
    gpu = DEVICE.type == "cuda"
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "device": "gpu" if gpu else "cpu",
        "device_name": torch.cuda.get_device_name() if gpu else "",
        "threads": torch.get_num_threads(),
    }


def prepare(
    held: contextlib.ExitStack,
    case: dict[str, Any],
    variant: dict[str, Any],
    batch: int,
    steps: int,
) -> Prepared:
    """Returns the turns of one variant, see `protocol.serve`."""
    if not case["student"]:
        reading = input_torch.loader(cases.INPUT_EPOCHS * steps * batch, batch, augmented=True)
        return Prepared({cases.INPUT: lambda: _read(reading)})
    loader = input_torch.loader(steps * batch, batch, augmented=not variant["cached"])
    student, step = _training(case, variant)
    cache = torch.randn(steps * batch, cases.CLASSES, device=DEVICE)
    log = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()), "log.jsonl")
    *_, (images, labels, _) = input_torch.batches(loader)

    def same_batch() -> None:
        for _ in range(steps):
            step(images, labels, cache[:batch] if variant["cached"] else None)
        _finish()

    def epoch() -> None:
        found = []
        for done, (images, labels, places) in enumerate(input_torch.batches(loader), 1):
            taught = cache[places] if variant["cached"] else None
            found.append(step(images, labels, taught))
            if done % cases.LOG_EVERY == 0 or done == steps:
                loss, right = torch.stack(found).mean(0).tolist()
                with log.open("a") as file:
                    print(json.dumps({"step": done, "loss": loss, "accuracy": right}), file=file)
                found = []

    parameters = sum(value.numel() for value in student.parameters())
    return Prepared({cases.STEP: same_batch, cases.EPOCH: epoch}, parameters)


def _read(loader: DataLoader) -> None:
    for _ in input_torch.batches(loader):
        pass
    _finish()


def _finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _training(case: dict[str, Any], variant: dict[str, Any]) -> tuple[nn.Module, Step]:
    """Returns the student and a step `(images, labels, cached logits or None) -> [2]`."""
    taught = bool(case["teacher"])
    student = _network(case["student"], cases.CLASSES + taught).train()
    teacher = None
    if taught and not variant["cached"]:
        teacher = _network(case["teacher"], cases.CLASSES).eval().requires_grad_(False)
    forward = torch.compile(student) if variant["compiled"] else student
    taught_by = torch.compile(teacher) if teacher and variant["compiled"] else teacher
    optimizer = _optimizer(student)
    half = variant["dtype"] == "bfloat16"

    def step(
        images: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None
    ) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            if taught_by is not None:
                with torch.no_grad():
                    teacher_logits = taught_by(images).float()
            logits = forward(images).float()
        if teacher_logits is None:
            loss = functional.cross_entropy(logits, labels)
        else:
            loss = networks_torch.ka_gambler_sum(logits, teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = logits[:, : cases.CLASSES].argmax(1) == labels
        return torch.stack((loss.detach(), right.float().mean()))

    return student, step


def _network(name: str, outputs: int) -> nn.Module:
    return networks_torch.create(name, outputs).to(DEVICE, memory_format=torch.channels_last)


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    matrices = [value for value in network.parameters() if value.ndim > 1]
    vectors = [value for value in network.parameters() if value.ndim == 1]
    return torch.optim.SGD(
        [{"params": matrices, "weight_decay": cases.WEIGHT_DECAY}, {"params": vectors}],
        lr=cases.LEARNING_RATE,
        momentum=cases.MOMENTUM,
        nesterov=True,
    )


def agreement(network: str, folder: str) -> Reply:
    """Writes `torch.npy`, the logits of the weights and images in the folder.

    Returns:
        The objective's value for these logits, with themselves, reversed, as the teacher's.
    """
    place = pathlib.Path(folder)
    with np.load(place / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(a) for name, a in torch_weights(arrays).items()}
    images = torch.from_numpy(np.load(place / "images.npy")).permute(0, 3, 1, 2).to(DEVICE)
    model = _network(network, cases.CLASSES + 1).eval()
    found = model.load_state_dict(weights, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
        raise ValueError(f"missing weights {missing}, unexpected {found.unexpected_keys}")
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = model(images).cpu()
    np.save(place / "torch.npy", logits.numpy())
    labels = torch.arange(len(logits)) % cases.CLASSES
    loss = networks_torch.ka_gambler_sum(logits, logits[:, :-1].flip(0), labels)
    return {"loss": loss.item()}


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    serve(prepare, describe=describe, agreement=agreement)
