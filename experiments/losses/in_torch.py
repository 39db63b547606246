"""The worker for the losses in PyTorch; its environment needs torch and numpy, not kdjax.

`python -m experiments.losses.in_torch`, started by `python -m experiments.losses`.
"""

import contextlib
import platform
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from experiments.benchmark.protocol import Prepared, Reply, serve
from experiments.losses.inputs import GRADIENT, LOSS, PAYOFF, TEMPERATURE, arguments, summary

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _gambler(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    probs = logits.softmax(-1)
    return -(probs.gather(-1, labels[:, None])[:, 0] + probs[:, -1] / PAYOFF).log()


def _soft_gambler(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    probs = logits.softmax(-1)
    return -(targets * (probs[:, :-1] + probs[:, -1:] / PAYOFF).log()).sum(-1)


def _distillation(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    log_student = (logits / TEMPERATURE).log_softmax(-1)
    return TEMPERATURE**2 * functional.kl_div(log_student, targets, reduction="none").sum(-1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": _cross_entropy,
    "gambler": _gambler,
    "soft_gambler": _soft_gambler,
    "distillation": _distillation,
}


def describe() -> Reply:
    """Returns versions and device."""
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "device": device,
    }


def _tensors(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    logits, targets = (torch.from_numpy(array).to(DEVICE) for array in arguments(name))
    # PyTorch needs labels of 64 bits.
    return logits, targets if targets.is_floating_point() else targets.long()


def _gradient(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, targets).mean(), logits)
    return gradient


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def prepare(resources: contextlib.ExitStack, variant: dict[str, str]) -> Prepared:
    """Returns a loss and its gradient, ready to be timed; see `protocol.serve`."""
    loss, inputs = LOSSES[variant["loss"]], _tensors(variant["loss"])

    def forward() -> None:
        with torch.no_grad():
            loss(*inputs)
        _synchronize()

    def backward() -> None:
        _gradient(loss, *inputs)
        _synchronize()

    return Prepared({LOSS: forward, GRADIENT: backward})


def values(side: str, name: str) -> Reply:
    """Returns the mean of a loss and the norm of the gradient of the mean."""
    loss, inputs = LOSSES[name], _tensors(name)
    return summary(loss(*inputs).cpu(), _gradient(loss, *inputs).cpu())


if __name__ == "__main__":
    serve(prepare, describe=describe, values=values)
