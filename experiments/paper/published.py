"""Figures of other people's networks and budgets, on test.

Sources: of VGG-16-BN arXiv 2002.10319 and 1907.00208, of ResNet18 with an AURC arXiv 2403.00543;
of ResNet56 experiments/results/published_teachers.md.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """A published result on test.

    Attributes:
        method: what was trained.
        network: and on how many runs the figures are means, if on several.
        errors: % at a coverage in %.
        aurc: x 1000; None if it was not given.
    """

    method: str
    network: str
    errors: Mapping[int, float]
    aurc: float | None = None


_COVERAGES = (100, 95, 90, 80, 70)
_VGG, _RESNET = "VGG-16-BN", "ResNet18, 3 runs"


def _errors(*values: float) -> Mapping[int, float]:
    return dict(zip(_COVERAGES, values, strict=False))


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "cifar10": (
        Published("self-adaptive training", _VGG, _errors(6.05, 3.37, 1.93, 0.67, 0.34)),
        Published("deep gamblers", _VGG, _errors(6.12, 3.49, 2.19, 0.66, 0.43)),
        Published("softmax response", _VGG, _errors(6.79, 4.55, 2.89, 1.05, 0.42)),
        Published("softmax response", _RESNET, _errors(5.11), 6.78),
        Published("SWA", _RESNET, _errors(4.62), 4.00),
        Published("SAM + SWA", _RESNET, _errors(4.40), 3.56),
        Published("SURE", _RESNET, _errors(3.86), 2.97),
        Published("distillation from ResNet50", "ResNet18", _errors(5.09)),
        Published("cross-entropy", "ResNet18", _errors(5.14)),
        Published("cross-entropy", "AlexNet", _errors(22.8)),
        Published("weights of others, measured here", "ResNet56", {100: 6.61, 80: 1.19}, 7.73),
        Published("the same with mirror views", "ResNet56", {100: 5.82, 80: 0.74}, 5.82),
    ),
    "cifar100": (
        Published(
            "cross-entropy, Gini score", "10 runs", _errors(25.27, 22.23, 19.58, 14.55, 9.92)
        ),
        Published("deep gamblers", "10 runs", _errors(26.30, 23.38, 20.74, 16.30, 11.91)),
        Published("softmax response", _RESNET, _errors(24.13), 69.4),
        Published("SWA", _RESNET, _errors(22.35), 55.9),
        Published("SURE", _RESNET, _errors(19.51), 45.8),
        Published("cross-entropy", "AlexNet", _errors(56.1)),
    ),
    "svhn": (
        Published("self-adaptive training", _VGG, _errors(2.75, 0.96, 0.60, 0.43)),
        Published("deep gamblers", _VGG, _errors(3.24, 1.36, 0.76, 0.51)),
    ),
    "fashion_mnist": (Published("cross-entropy", "ResNet18", _errors(5.1)),),
}
