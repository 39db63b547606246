"""What is measured: pairs of networks, roads through them, and each side's variants."""

import functools
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
PAD = 4
# Random labels cannot be learnt: a small rate keeps every loss finite, and costs the same.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
# The objective's, `ka_gambler_sum`, which every side writes down for itself.
PAYOFF, TEMPERATURE = 2.2, 4.0
LOG_EVERY = 50
# Reading an image takes so much less than training on it that its turns need more of them.
INPUT_EPOCHS = 20

STEP, EPOCH, INPUT = "step", "epoch", "input"
ROADS = {
    STEP: "training step",
    EPOCH: "epoch with input and logging",
    INPUT: "input alone",
}


class Case(NamedTuple):
    """What is trained.

    Attributes:
        name: on the command line.
        student: the network that is trained; empty: the images are only read.
        teacher: the frozen network that it learns from; empty: none.
        roads: keys of `ROADS`.
    """

    name: str
    student: str = ""
    teacher: str = ""
    roads: tuple[str, ...] = (STEP, EPOCH)

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return " -> ".join(filter(None, (self.teacher, self.student))) or "augmented images"


class Variant(NamedTuple):
    """How one library does it.

    Attributes:
        name: on the command line.
        side: torch, kdjax or keras.
        title: in the table.
        dtype: of the trained network's computation.
        teacher_dtype: of the teacher's computation.
        compiled: through `torch.compile`.
        cached: the teacher's logits were computed before; no random augmentation then.
        needs_teacher: without one it is no different from another variant.
    """

    name: str
    side: str
    title: str
    dtype: str = "float32"
    teacher_dtype: str = "float32"
    compiled: bool = False
    cached: bool = False
    needs_teacher: bool = False


CASES = {
    case.name: case
    for case in (
        Case("input", roads=(INPUT,)),
        Case("resnet18", "resnet18"),
        Case("resnet50", "resnet50"),
        Case("resnet50_to_resnet18", "resnet18", "resnet50"),
        Case("resnet18_to_alexnet", "alexnet", "resnet18"),
    )
}

_half = functools.partial(Variant, dtype="bfloat16", teacher_dtype="bfloat16")
_cached = functools.partial(Variant, cached=True, needs_teacher=True)
_half_cached = functools.partial(_half, cached=True, needs_teacher=True)
# The first one on each device is what every other is measured against.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "cpu": (
        Variant("torch", "torch", "eager float32"),
        _half("torch_bfloat16", "torch", "eager bfloat16 autocast"),
        Variant("torch_compile", "torch", "torch.compile float32", compiled=True),
        _cached("torch_cached", "torch", "eager float32, teacher cached"),
        Variant("kdjax", "kdjax", "float32"),
        Variant(
            "kdjax_bfloat16_teacher",
            "kdjax",
            "float32, teacher bfloat16",
            teacher_dtype="bfloat16",
            needs_teacher=True,
        ),
        _half("kdjax_bfloat16", "kdjax", "bfloat16"),
        _cached("kdjax_cached", "kdjax", "float32, teacher cached"),
        _half_cached("kdjax_bfloat16_cached", "kdjax", "bfloat16, teacher cached"),
        Variant("keras", "keras", "fit, float32, no augmentation"),
    ),
    "gpu": (
        _half("torch", "torch", "eager bfloat16 autocast"),
        _half("torch_compile", "torch", "torch.compile bfloat16", compiled=True),
        _half_cached("torch_cached", "torch", "eager bfloat16, teacher cached"),
        _half("kdjax", "kdjax", "bfloat16"),
        _half_cached("kdjax_cached", "kdjax", "bfloat16, teacher cached"),
        _half("keras", "keras", "fit, mixed_bfloat16, no augmentation"),
    ),
}
INPUT_VARIANTS = (
    Variant("torch", "torch", "DataLoader, 2 workers"),
    Variant("kdjax", "kdjax", "resident"),
)


def variants(
    case: Case, device: str, sides: Collection[str], names: Collection[str]
) -> list[Variant]:
    """Returns the variants of a case that are to be measured, the reference first.

    Args:
        case: of `CASES`.
        device: cpu or gpu.
        sides: those that there are.
        names: of the variants that are asked for.
    """
    there = VARIANTS[device] if case.student else INPUT_VARIANTS
    return [
        variant
        for variant in there
        if variant.side in sides
        and variant.name in names
        and (case.teacher or not variant.needs_teacher)
    ]


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images uint8 [count, 32, 32, 3] and labels int32 [count]."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, *IMAGE_SHAPE), dtype=np.uint8)
    return images, draw.integers(0, CLASSES, count, dtype=np.int32)
