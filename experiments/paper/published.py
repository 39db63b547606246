"""Figures of other people's networks and budgets, on test: those with a known source."""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """A published result on test.

    Attributes:
        method: what was trained.
        network: and on how many runs the figures are means, if on several.
        source: of the figures.
        errors: % at a coverage in %.
        aurc: x 1000; None if it was not given.
    """

    method: str
    network: str
    source: str
    errors: Mapping[int, float]
    aurc: float | None = None


_COVERAGES = (100, 95, 90, 80, 70)
_SAT, _GAMBLERS, _SURE = "arXiv 2002.10319", "arXiv 1907.00208", "arXiv 2403.00543"
_BOTH = "arXiv 1907.00208, 2002.10319"
_ALEXNET = "github.com/bearpaw/pytorch-classification"
_MEASURED = "measured here, experiments/results/published_teachers.md"
_VGG, _RESNET = "VGG-16-BN", "ResNet18, 3 runs"


def _errors(*values: float) -> Mapping[int, float]:
    return dict(zip(_COVERAGES, values, strict=False))


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "cifar10": (
        Published("published weights", "ResNet56", _MEASURED, {100: 6.61, 80: 1.19}, 7.73),
        Published("the same, mirror views", "ResNet56", _MEASURED, {100: 5.82, 80: 0.74}, 5.82),
        Published("self-adaptive training", _VGG, _SAT, _errors(6.05, 3.37, 1.93, 0.67, 0.34)),
        Published("deep gamblers", _VGG, _GAMBLERS, _errors(6.12, 3.49, 2.19, 0.66, 0.43)),
        Published("softmax response", _VGG, _BOTH, _errors(6.79, 4.55, 2.89, 1.05, 0.42)),
        Published("softmax response", _RESNET, _SURE, _errors(5.11), 6.78),
        Published("SWA", _RESNET, _SURE, _errors(4.62), 4.00),
        Published("SAM + SWA", _RESNET, _SURE, _errors(4.40), 3.56),
        Published("SURE", _RESNET, _SURE, _errors(3.86), 2.97),
        Published("cross-entropy", "AlexNet", _ALEXNET, _errors(22.78)),
    ),
    "cifar100": (
        Published("softmax response", _RESNET, _SURE, _errors(24.13), 69.4),
        Published("SWA", _RESNET, _SURE, _errors(22.35), 55.9),
        Published("SURE", _RESNET, _SURE, _errors(19.51), 45.8),
        Published("cross-entropy", "AlexNet", _ALEXNET, _errors(56.13)),
    ),
    "svhn": (
        Published("self-adaptive training", _VGG, _SAT, _errors(2.75, 0.96, 0.60, 0.43)),
        Published("deep gamblers", _VGG, _GAMBLERS, _errors(3.24, 1.36, 0.76, 0.51)),
    ),
}
