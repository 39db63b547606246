"""The worker for the losses in PyTorch; runs in an environment with torch, without kdjax.

`python -m experiments.losses.in_torch`, started by the driver.
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
    """Returns what this side is and runs on."""
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "device": device,
    }


def _given(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    logits, truth = (torch.from_numpy(array).to(DEVICE) for array in arguments(name))
    # PyTorch's labels are 64 bits wide.
    return logits, truth if truth.is_floating_point() else truth.long()


def _gradient(loss: Loss, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    logits = logits.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, truth).mean(), logits)
    return found


def _finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def prepare(held: contextlib.ExitStack, variant: dict[str, str]) -> Prepared:
    """Returns the turns of one loss, see `protocol.serve`."""
    loss, given = LOSSES[variant["loss"]], _given(variant["loss"])

    def forward() -> None:
        with torch.no_grad():
            loss(*given)
        _finish()

    def backward() -> None:
        _gradient(loss, *given)
        _finish()

    return Prepared({LOSS: forward, GRADIENT: backward})


def values(side: str, name: str) -> Reply:
    """Returns the mean of a loss, and the norm of its gradient."""
    loss, given = LOSSES[name], _given(name)
    return summary(loss(*given).cpu(), _gradient(loss, *given).cpu())


if __name__ == "__main__":
    serve(prepare, describe=describe, values=values)
