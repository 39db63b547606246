"""Model FLOPs utilization (MFU): the nominal operations of a network, per second, over the ceiling.

The nominal operations follow from the shapes alone, by `kdjax.models.cost.cost`: a multiply-add is
two operations, and training a network takes three times its forward pass. What a library really
computes (other algorithms, recomputation, augmentation, the optimizer) does not count. The ceiling
is the best rate of a large matrix product that numpy, PyTorch or XLA reached on the same machine in
the same dtype.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.benchmark import cases
from experiments.benchmark.ceiling import FLOAT32
from kdjax import models
from kdjax.models.cost import cost

OPERATIONS = 2  # of a multiply-add
TRAINING = 3  # forward passes: the gradients of inputs and of weights take one each

# Dtype -> library -> FLOP/s.
Ceilings = Mapping[str, Mapping[str, float]]


class Flops(NamedTuple):
    """Nominal operations for one image.

    Attributes:
        student: of the network that is trained, or whose forward pass is timed.
        teacher: of its teacher; 0 without one, or if its logits are cached.
    """

    student: int
    teacher: int


def multiply_adds(network: str, outputs: int = cases.CLASSES) -> int:
    """Returns the nominal multiply-adds of a forward pass of one image."""
    return cost(models.create(network, outputs), cases.IMAGE_SHAPE).multiply_adds


def nominal_flops(case: cases.Case, phase: str, cached: bool) -> Flops:
    """Returns the nominal operations of a phase of a case for one image.

    Args:
        case: with a student.
        phase: a key of `cases.PHASES`.
        cached: whether the teacher's logits are cached.
    """
    passes = 1 if phase == cases.FORWARD else TRAINING
    student = multiply_adds(case.student, cases.CLASSES + bool(case.teacher))
    teacher = 0 if cached or not case.teacher else multiply_adds(case.teacher)
    return Flops(OPERATIONS * passes * student, OPERATIONS * teacher)


def ceilings_of(results: Mapping[str, Any]) -> Ceilings:
    """Returns the measured ceilings of a results file.

    The files of earlier versions have one, of XLA.
    """
    if "ceilings" in results:
        return dict(results["ceilings"])
    one = results["sides"]["kdjax"]
    return {one["ceiling_dtype"]: {"XLA": one["ceiling_flops"]}} if "ceiling_flops" in one else {}


def merged(descriptions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns the ceilings that the sides have measured."""
    ceilings: dict[str, dict[str, float]] = {}
    for description in descriptions.values():
        for dtype, rates in description.get("ceilings", {}).items():
            ceilings.setdefault(dtype, {}).update(rates)
    return ceilings


def mfu(row: Mapping[str, Any], results: Mapping[str, Any]) -> float | None:
    """Returns the utilization of a row of a results file; None if its ceiling was not measured.

    It is the share of the time that the nominal operations of student and teacher would take at the
    ceilings of the dtypes in which they are computed.
    """
    case, ceilings = cases.CASES[row["case"]], ceilings_of(results)
    variant = cases.find_variant(row["variant"], results["sides"]["kdjax"].get("device", "cpu"))
    if not case.student or variant is None:
        return None
    flops = nominal_flops(case, row["road"], row["cached"])
    parts = ((flops.student, variant.dtype), (flops.teacher, variant.teacher_dtype))
    needed = [(count, dtype) for count, dtype in parts if count]
    if any(dtype not in ceilings for _, dtype in needed):
        return None
    seconds = sum(count / max(ceilings[dtype].values()) for count, dtype in needed)
    return float(row["images_per_second"] * seconds)


def ceilings_line(results: Mapping[str, Any]) -> str:
    """Returns the ceilings as text; empty if none was measured."""
    best = [
        f"{max(rates.values()) / 1e9:,.0f} GFLOP/s in {dtype} ({max(rates, key=rates.__getitem__)})"
        for dtype, rates in sorted(
            ceilings_of(results).items(), key=lambda item: item[0] != FLOAT32
        )
    ]
    return f"Best matrix product: {', '.join(best)}." if best else ""
