"""The benchmark's cases (networks), phases (what is timed) and variants of each library.

A side is one of the libraries that are compared: torch, kdjax, keras or onnxruntime.
"""

import functools
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
PAD = 4
# The labels are random: a small learning rate keeps every loss finite, at the same cost per step.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
# Hyperparameters of the objective `ka_gambler_sum`, which each side implements.
PAYOFF, TEMPERATURE = 2.2, 4.0
LOG_EVERY = 50
ONNXRUNTIME = "onnxruntime"
# Reading images is much faster than training on them, so one timed run reads several epochs.
INPUT_EPOCHS = 20

STEP, EPOCH, INPUT, FORWARD = "step", "epoch", "input", "forward"
PHASES = {
    STEP: "training step",
    EPOCH: "epoch with input and logging",
    INPUT: "input only",
    FORWARD: "forward pass",
}


class Case(NamedTuple):
    """The networks of a measurement.

    Attributes:
        name: the name on the command line.
        student: the network that is trained; empty if images are only read.
        teacher: the frozen teacher of the student; empty without a teacher.
        phases: the phases that are timed, keys of `PHASES`.
    """

    name: str
    student: str = ""
    teacher: str = ""
    phases: tuple[str, ...] = (STEP, EPOCH)

    @property
    def title(self) -> str:
        """The name in a table."""
        return " -> ".join(filter(None, (self.teacher, self.student))) or "augmented images"


class Variant(NamedTuple):
    """A way in which one library runs a case.

    Attributes:
        name: the name on the command line.
        side: torch, kdjax, keras or onnxruntime.
        title: the name in a table, after the library's.
        dtype: the dtype in which the trained network computes.
        teacher_dtype: the dtype in which the teacher computes.
        compiled: whether `torch.compile` is used.
        cached: whether the teacher's logits are cached; images are then not augmented.
        needs_teacher: whether the variant exists for cases with a teacher only.
        networks: the students for which the variant exists; empty for all.
    """

    name: str
    side: str
    title: str
    dtype: str = "float32"
    teacher_dtype: str = "float32"
    compiled: bool = False
    cached: bool = False
    needs_teacher: bool = False
    networks: tuple[str, ...] = ()


# From the smallest to the largest.
SMALL_NETWORKS = ("resnet8", "resnet14", "resnet20", "resnet56", "alexnet_small", "fast_cnn")
NETWORKS = (*SMALL_NETWORKS, "resnet18", "resnet50")
# Networks that keras_side has.
_KERAS = tuple({*NETWORKS, "alexnet"} - {"alexnet_small", "fast_cnn"})
CASES = {
    case.name: case
    for case in (
        Case("input", phases=(INPUT,)),
        *(Case(name, name, phases=(STEP, EPOCH, FORWARD)) for name in NETWORKS),
        Case("resnet50_to_resnet18", "resnet18", "resnet50"),
        Case("resnet18_to_alexnet", "alexnet", "resnet18"),
    )
}

_bfloat16 = functools.partial(Variant, dtype="bfloat16", teacher_dtype="bfloat16")
_cached = functools.partial(Variant, cached=True, needs_teacher=True)
_bfloat16_cached = functools.partial(_bfloat16, cached=True, needs_teacher=True)
# The first variant of each device is the reference of the ratios.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "cpu": (
        Variant("torch", "torch", "eager float32"),
        _bfloat16("torch_bfloat16", "torch", "eager bfloat16 autocast"),
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
        _bfloat16("kdjax_bfloat16", "kdjax", "bfloat16"),
        _cached("kdjax_cached", "kdjax", "float32, teacher cached"),
        _bfloat16_cached("kdjax_bfloat16_cached", "kdjax", "bfloat16, teacher cached"),
        Variant("keras", "keras", "fit, float32, no augmentation", networks=_KERAS),
        Variant(ONNXRUNTIME, ONNXRUNTIME, "float32", networks=NETWORKS),
    ),
    "gpu": (
        _bfloat16("torch", "torch", "eager bfloat16 autocast"),
        _bfloat16("torch_compile", "torch", "torch.compile bfloat16", compiled=True),
        _bfloat16_cached("torch_cached", "torch", "eager bfloat16, teacher cached"),
        _bfloat16("kdjax", "kdjax", "bfloat16"),
        _bfloat16_cached("kdjax_cached", "kdjax", "bfloat16, teacher cached"),
        _bfloat16("keras", "keras", "fit, mixed_bfloat16, no augmentation", networks=_KERAS),
    ),
}
INPUT_VARIANTS = (
    Variant("torch", "torch", "DataLoader, 2 workers"),
    Variant("kdjax", "kdjax", "resident"),
)


def variants(
    case: Case, device: str, sides: Collection[str], names: Collection[str]
) -> list[Variant]:
    """Returns the variants of a case that can be measured, the reference first.

    Args:
        case: one of `CASES`.
        device: cpu or gpu.
        sides: the available sides.
        names: the names of the requested variants.
    """
    candidates = VARIANTS[device] if case.student else INPUT_VARIANTS
    return [
        variant
        for variant in candidates
        if variant.side in sides
        and variant.name in names
        and (case.teacher or not variant.needs_teacher)
        and (not variant.networks or case.student in variant.networks)
        # ONNX Runtime does not train.
        and (variant.side != ONNXRUNTIME or not case.teacher)
    ]


def find_variant(name: str, device: str) -> Variant | None:
    """Returns a variant of a device by its name; None if there is none, as for `input`."""
    return next((variant for variant in VARIANTS[device] if variant.name == name), None)


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images uint8 [count, 32, 32, 3] and labels int32 [count]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *IMAGE_SHAPE), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, count, dtype=np.int32)
