"""The Deep Gamblers loss and schedule in PyTorch, on the exported split of a job.

python -m experiments.paper.baselines.deep_gamblers_torch --split=split.npz --out=baselines
    [--method=gambler|ce] [--schedule=cosine|halving] [--device=cuda]

Needs torch and numpy, not kdjax. `--schedule=cosine` has the job's epochs, schedule, optimizer and
views of the training images. `--schedule=halving` has the optimizer and schedule of the public code
of arXiv 1907.00208 (github.com/Z-T-WANG/NIPS2019DeepGamblers): SGD with learning rate 0.1, momentum
0.9 without Nesterov, weight decay 5e-4 of all parameters, batches of 128, 300 epochs, halved every
25, cross-entropy in the first 100, random crops with 4 pixels of padding, and the last weights;
other --epochs scale the numbers of epochs. In both, the gambler loss has the public code's form, in
probabilities: -log(q_y + q_a / o) with q the softmax over m + 1 outputs.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.benchmark import networks_torch
from experiments.paper.baselines import exported
from experiments.paper.baselines.exported import (
    COSINE,
    EVALUATED,
    HALVING,
    TRAIN,
    Exported,
    Settings,
)

METHODS = ("gambler", "ce")
# Of the public code.
PUBLIC = {
    "epochs": 300,
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "eval_every": 0,
    "pad": 4,
}
PUBLIC_PRETRAINING = 1 / 3
EVALUATION_BATCH = 1000
Network = Callable[[torch.Tensor], torch.Tensor]


def gambler_loss(logits: torch.Tensor, labels: torch.Tensor, payoff: float) -> torch.Tensor:
    """Returns the mean of -log(q_y + q_a / o), q the softmax of the logits, a scalar.

    Args:
        logits: float32 [b, m+1], the last one of abstention.
        labels: int64 [b].
        payoff: o.

    Source: `train` in the public code of arXiv 1907.00208.
    """
    outputs = functional.softmax(logits, dim=1)
    outputs, reservation = outputs[:, :-1], outputs[:, -1]
    gain = torch.gather(outputs, dim=1, index=labels[:, None])[:, 0]
    return -(gain + reservation / payoff).log().mean()


def main(arguments: Sequence[str]) -> None:
    """Trains the network and writes its logits."""
    options = _parser().parse_args(arguments)
    split = exported.load(options.split)
    settings = _settings(split, options)
    if options.schedule == HALVING:
        split = _without_views(split)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    watch = exported.Stopwatch()
    network = create(settings.model, split, settings.seed).to(
        device, memory_format=torch.channels_last
    )
    data = DeviceData(split, settings, device)
    best = _train(network, data, split, settings, options)
    seconds = watch.seconds()
    network.load_state_dict(best.weights)
    name = options.name or _name(options)
    record = {
        "name": name,
        "method": options.method,
        "abstains": options.method == "gambler",
        "needs_teacher": False,
        "command": exported.command("deep_gamblers_torch", arguments),
        "epochs": settings.epochs,
        "best_epoch": best.epoch,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "seconds": seconds,
    }
    file_name = f"torch_{options.method}_{options.schedule}"
    logits = evaluate(network, data, split)
    exported.write(options.out, file_name, split, logits, record, ("torch", "numpy"))


def _parser() -> argparse.ArgumentParser:
    parser = exported.parser("deep_gamblers_torch", __doc__)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--schedule", choices=(COSINE, HALVING), default=COSINE)
    parser.add_argument("--payoff", type=float, help="o of the gambler loss")
    parser.add_argument("--pretrain-epochs", type=int, help="of cross-entropy")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    return parser


def _settings(split: Exported, options: argparse.Namespace) -> Settings:
    """Returns the settings of the training: those of the job or of the public code, and options."""
    settings = split.settings
    if options.schedule == HALVING:
        settings = exported.change(settings, **PUBLIC)
    names = ("epochs", "batch_size", "learning_rate", "dtype", "eval_every", "seed", "payoff")
    settings = exported.change(settings, **{name: getattr(options, name) for name in names})
    pretraining = options.pretrain_epochs
    if pretraining is None and settings.epochs != split.settings.epochs:
        pretraining = round(PUBLIC_PRETRAINING * settings.epochs)
    return exported.change(settings, pretrain_epochs=pretraining)


def _name(options: argparse.Namespace) -> str:
    suffix = ", public schedule" if options.schedule == HALVING else ""
    return f"{options.method} (PyTorch{suffix})"


def _without_views(split: Exported) -> Exported:
    return Exported(
        split.settings, split.images, split.labels, split.classes, split.views[:0], None
    )


def create(name: str, split: Exported, seed: int) -> nn.Module:
    """Returns a network with m + 1 outputs and the initial weights of kdjax: He et al., fan-in.

    Args:
        name: of a network in `networks_torch`.
        split: whose images and classes it has.
        seed: of the initial weights.
    """
    torch.manual_seed(seed)
    channels = split.images[TRAIN].shape[-1]
    try:
        network = networks_torch.create(name, split.classes + 1, channels)
    except KeyError:
        sys.exit(f"error: no student {name!r} in PyTorch")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


class DeviceData:
    """All images and labels of a split on a device, as uint8."""

    def __init__(self, split: Exported, settings: Settings, device: torch.device) -> None:
        """Copies the images and labels to the device."""
        pad = settings.pad
        padded = np.pad(split.images[TRAIN], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        self._padded = torch.from_numpy(padded).to(device)
        self._size = split.images[TRAIN].shape[1:3]
        self._pad, self._flip, self.device = pad, settings.flip, device
        self.labels = torch.from_numpy(split.labels[TRAIN].astype(np.int64)).to(device)
        self.evaluated = {
            name: torch.from_numpy(split.images[name]).to(device) for name in EVALUATED
        }
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
            for values in (settings.mean, settings.std)
        )
        self.bfloat16 = settings.dtype == "bfloat16"

    def augment(self, order: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        """Returns the augmented training images of an epoch, in its order, uint8 [n, h, w, c].

        Args:
            order: indices of the images, [n].
            numbers: of their augmentations, see `exported.offsets`.
        """
        height, width = self._size
        top, left, mirrored = (
            torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
            for array in exported.offsets(numbers, self._pad, flip=self._flip)
        )
        columns = torch.arange(width, device=self.device)[None]
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + left[:, None]
        rows = torch.arange(height, device=self.device)[None] + top[:, None]
        images = torch.from_numpy(order).to(self.device)
        return self._padded[images[:, None, None], rows[:, :, None], columns[:, None]]

    def epoch(self, split: Exported, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the augmented images uint8 [n, h, w, c] and the labels [n] of an epoch."""
        rng = exported.epoch_generator(seed, epoch)
        numbers = exported.epoch_numbers(split, epoch, rng)
        order = rng.permutation(len(self.labels))
        labels = self.labels[torch.from_numpy(order).to(self.device)]
        return self.augment(order, numbers[order]), labels

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 [b, c, h, w], channels last in memory, for uint8 [b, h, w, c]."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std

    def forward(self, network: Network, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 logits [b, m+1] for uint8 images [b, h, w, c]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return network(self.normalize(images)).float()


def _train(
    network: nn.Module,
    data: DeviceData,
    split: Exported,
    settings: Settings,
    options: argparse.Namespace,
) -> exported.BestOnDev:
    """Trains the network and returns its best weights on dev."""
    steps = exported.steps_per_epoch(split, settings)
    rates = exported.learning_rates(settings, options.schedule, steps)
    optimizer = _optimizer(network, settings, decay_all=options.schedule == HALVING)
    forward = torch.compile(network) if options.compile else network
    pretraining = settings.pretrain_epochs if options.method == "gambler" else 0
    dev = split.labels["dev"]
    best = exported.BestOnDev(dev, settings.eval_every, settings.epochs, pretraining)
    ends = set(best.ends())
    for epoch in range(settings.epochs):
        network.train()
        images, labels = data.epoch(split, settings.seed, epoch)
        entropy = options.method == "ce" or epoch < pretraining
        for step in range(steps):
            batch = slice(step * settings.batch_size, (step + 1) * settings.batch_size)
            logits = data.forward(forward, images[batch])
            loss = _loss(logits, labels[batch], settings.payoff, pretraining=entropy)
            _update(optimizer, loss, rates[epoch * steps + step])
        exported.end_epoch(epoch + 1, settings.epochs, loss.item())
        if epoch + 1 in ends:
            logits_on_dev = predict(network, data, data.evaluated["dev"])[:, :-1]
            best.update(epoch + 1, logits_on_dev, lambda: copy.deepcopy(network.state_dict()))
    return best


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = float(learning_rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _loss(
    logits: torch.Tensor, labels: torch.Tensor, payoff: float, *, pretraining: bool
) -> torch.Tensor:
    """Returns the loss of a batch: in pre-training cross-entropy over the m class logits."""
    if pretraining:
        return functional.cross_entropy(logits[:, :-1], labels)
    return gambler_loss(logits, labels, payoff)


def _optimizer(network: nn.Module, settings: Settings, *, decay_all: bool) -> torch.optim.Optimizer:
    """Returns SGD; weight decay of kernels only, or of all parameters."""
    parameters = [value for value in network.parameters() if value.requires_grad]
    decayed = [value for value in parameters if decay_all or value.ndim > 1]
    others = [value for value in parameters if not (decay_all or value.ndim > 1)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": settings.weight_decay}]
    groups += [{"params": others}] if others else []
    cuda = parameters[0].device.type == "cuda"
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=cuda,
    )


def predict(network: nn.Module, data: DeviceData, images: torch.Tensor) -> np.ndarray:
    """Returns float32 logits [n, m+1] for uint8 images [n, h, w, c] on the device."""
    network.eval()
    with torch.no_grad():
        parts = [data.forward(network, part) for part in images.split(EVALUATION_BATCH)]
    return torch.cat(parts).cpu().numpy()


def evaluate(network: nn.Module, data: DeviceData, split: Exported) -> dict[str, np.ndarray]:
    """Returns the logits on all splits but train, see `exported.write`."""
    logits = {}
    for name in EVALUATED:
        images = data.evaluated[name]
        logits[name] = predict(network, data, images)
        logits[f"{name}_mirrored"] = predict(network, data, images.flip(2))
    return logits


if __name__ == "__main__":
    main(sys.argv[1:])
