"""Times the variants of all sides in turn, A B A B, and collects the results."""

import os
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmark import agreement, cases, protocol, utilization
from experiments.benchmark.protocol import Worker, WorkerError, processor

REFERENCE, REFERENCE_CACHED = "torch", "torch_cached"
Seconds = Mapping[str, Sequence[float]]


class Size(NamedTuple):
    """The size of a measurement.

    Attributes:
        batch: the batch size.
        steps: training steps per timed run.
        rounds: timed runs of each variant.
    """

    batch: int
    steps: int
    rounds: int


def ratio(reference: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Returns the speed relative to the reference: median, min and max over rounds.

    Args:
        reference: seconds of the reference in each round.
        seconds: seconds of the variant in the same rounds, for the same number of images.
    """
    ratios = [a / b for a, b in zip(reference, seconds, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def measure(
    workers: Mapping[str, Worker],
    case_names: Collection[str],
    phases: Collection[str],
    variant_names: Collection[str],
    size: Size,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measures cases with all available sides.

    Args:
        workers: by side.
        case_names: keys of `cases.CASES`.
        phases: that are timed, if a case has them.
        variant_names: names of the requested variants.
        size: batch size, steps and rounds.
        save: called with the results so far after each case, because all of them take hours.

    Returns:
        The results, as JSON values.

    Raises:
        WorkerError: if the sides run on different devices, or their networks differ in the
            number of parameters.
    """
    descriptions = {side: worker("describe") for side, worker in workers.items()}
    device = _device(descriptions)
    results = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        **size._asdict(),
        "sides": descriptions,
        "ceilings": utilization.merged(descriptions),
        "agreement": agreement.compare(workers) if "torch" in workers else [],
        "rows": [],
        "left_out": _missing(workers, device),
    }
    for name in case_names:
        case = cases.CASES[name]
        case = case._replace(phases=tuple(phase for phase in case.phases if phase in phases))
        variants = cases.variants(case, device, workers, variant_names)
        rows, failures = _measure_case(workers, case, variants, size)
        results["rows"] += rows
        results["left_out"] += failures
        save(results)
    return results


def _missing(sides: Collection[str], device: str) -> list[str]:
    absent = [side for side in protocol.MODULES if side not in sides]
    reasons = {cases.ONNXRUNTIME: "the extra kdjax[onnx] is not installed"}
    missing = [f"{side}: {reasons.get(side, f'no --{side}-python was given')}" for side in absent]
    return missing if device == "gpu" else [*missing, "the GPU variants: no GPU is available"]


def _device(descriptions: Mapping[str, protocol.Reply]) -> str:
    devices = {side: description["device"] for side, description in descriptions.items()}
    if len(set(devices.values())) > 1:
        raise WorkerError(f"the sides do not run on the same device: {devices}")
    return devices["kdjax"]


def _measure_case(
    workers: Mapping[str, Worker],
    case: cases.Case,
    variants: Sequence[cases.Variant],
    size: Size,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of a case, and a line for each variant that failed."""
    prepared, failures = _prepare(workers, case, variants, size)
    _check_parameters(case, prepared)
    rows = []
    for phase in case.phases:
        timed = [variant for variant, reply in prepared.items() if phase in reply["phases"]]
        seconds = _time(workers, timed, phase, size.rounds)
        _log(f"{case.name}: {cases.PHASES[phase]} measured")
        for variant in timed:
            memory = prepared[variant]["memory"] if phase != cases.FORWARD else None
            rows.append({**_row(case, phase, variant, seconds, size), "memory_of_step": memory})
    for worker in workers.values():
        worker("release")
    return rows, failures


def _prepare(
    workers: Mapping[str, Worker],
    case: cases.Case,
    variants: Sequence[cases.Variant],
    size: Size,
) -> tuple[dict[cases.Variant, protocol.Reply], list[str]]:
    prepared, failures = {}, []
    for variant in variants:
        arguments = {"case": case._asdict(), "variant": variant._asdict()}
        try:
            reply = workers[variant.side](
                "prepare", **arguments, batch=size.batch, steps=size.steps
            )
        except WorkerError as error:
            failures.append(f"{case.name}, {variant.name}: {error}")
            _log(failures[-1])
        else:
            prepared[variant] = reply
            _log(f"{case.name}: {variant.name} prepared in {reply['seconds']:.0f} s")
    return prepared, failures


def _check_parameters(case: cases.Case, prepared: Mapping[cases.Variant, protocol.Reply]) -> None:
    # The student of Keras's Distiller has as many outputs as the teacher, so no abstention output.
    counts = {
        variant.name: reply["parameters"]
        for variant, reply in prepared.items()
        if not (variant.side == "keras" and case.teacher) and reply["parameters"]
    }
    if len(set(counts.values())) > 1:
        raise WorkerError(f"{case.name}: the numbers of parameters differ: {counts}")


def _time(
    workers: Mapping[str, Worker], variants: Sequence[cases.Variant], phase: str, rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each round by variant; in a round each variant runs once."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            reply = workers[variant.side]("time", variant=variant.name, phase=phase)
            seconds[variant.name].append(reply["seconds"])
    return seconds


def _row(
    case: cases.Case, phase: str, variant: cases.Variant, seconds: Seconds, size: Size
) -> dict[str, Any]:
    epochs = cases.INPUT_EPOCHS if phase == cases.INPUT else 1
    images = epochs * size.steps * size.batch
    variant_seconds = seconds[variant.name]
    row = {
        "case": case.name,
        "road": phase,  # the key in all recorded results files
        "variant": variant.name,
        "side": variant.side,
        "title": variant.title,
        "cached": variant.cached,
        "seconds": variant_seconds,
        "images_per_second": images / statistics.median(variant_seconds),
    }
    if REFERENCE in seconds:
        row["ratio"] = ratio(seconds[REFERENCE], variant_seconds)
    if variant.cached and REFERENCE_CACHED in seconds:
        row["ratio_to_cached"] = ratio(seconds[REFERENCE_CACHED], variant_seconds)
    return row


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
