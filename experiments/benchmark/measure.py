"""Runs the sides in turn, A B A B, and puts together what they took."""

import os
import pathlib
import platform
import re
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmark import agree, cases, protocol
from experiments.benchmark.protocol import Ask, WorkerError

REFERENCE, REFERENCE_CACHED = "torch", "torch_cached"
Seconds = Mapping[str, Sequence[float]]


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        batch: images a step.
        steps: of each turn.
        rounds: turns of each variant.
    """

    batch: int
    steps: int
    rounds: int


def ratio(reference: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Returns how many times as fast as the reference, over rounds: median, least and most.

    Args:
        reference: seconds of the reference's turn in each round.
        seconds: of the other's turn in the same round, for the same number of images.
    """
    ratios = [a / b for a, b in zip(reference, seconds, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def measure(
    asks: Mapping[str, Ask],
    names: Collection[str],
    chosen: Collection[str],
    size: Size,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measures cases with all sides that there are.

    Args:
        asks: by side.
        names: of the cases.
        chosen: names of the variants.
        size: batch, steps and rounds.
        save: takes the results so far after each case: all of them take hours.

    Returns:
        The results, as JSON values.

    Raises:
        WorkerError: if the sides run on different devices, or differ in a number of parameters.
    """
    about = {side: ask("describe") for side, ask in asks.items()}
    device = _device(about)
    results = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        **size._asdict(),
        "sides": about,
        "agreement": agree.agree(asks) if "torch" in asks else [],
        "rows": [],
        "left_out": _missing(asks, device),
    }
    for name in names:
        case = cases.CASES[name]
        variants = cases.variants(case, device, asks, chosen)
        rows, failed = _case(asks, case, variants, size)
        results["rows"] += rows
        results["left_out"] += failed
        save(results)
    return results


def _missing(asks: Collection[str], device: str) -> list[str]:
    sides = [side for side in protocol.MODULES if side not in asks]
    missing = [f"{side}: no --{side}-python was given" for side in sides]
    return missing if device == "gpu" else [*missing, "the GPU table: no side sees a GPU here"]


def _device(about: Mapping[str, protocol.Reply]) -> str:
    devices = {side: found["device"] for side, found in about.items()}
    if len(set(devices.values())) > 1:
        raise WorkerError(f"the sides do not run on the same device: {devices}")
    return devices["kdjax"]


def _case(
    asks: Mapping[str, Ask], case: cases.Case, variants: Sequence[cases.Variant], size: Size
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of one case, and why variants are not among them."""
    prepared, failed = _prepared(asks, case, variants, size)
    _check_parameters(case, prepared)
    # Of one step of the same networks, whoever runs it.
    flops = {v.cached: reply["flops"] for v, reply in prepared.items() if reply["flops"]}
    rows = []
    for road in case.roads:
        there = [variant for variant, reply in prepared.items() if road in reply["roads"]]
        seconds = _turns(asks, there, road, size.rounds)
        _say(f"{case.name}: {cases.ROADS[road]} is measured")
        for variant in there:
            of_step = {
                "flops_of_step": flops.get(variant.cached),
                "memory_of_step": prepared[variant]["memory"],
            }
            rows.append({**_row(case, road, variant, seconds, size), **of_step})
    for ask in asks.values():
        ask("release")
    return rows, failed


def _prepared(
    asks: Mapping[str, Ask], case: cases.Case, variants: Sequence[cases.Variant], size: Size
) -> tuple[dict[cases.Variant, protocol.Reply], list[str]]:
    prepared, failed = {}, []
    for variant in variants:
        given = {"case": case._asdict(), "variant": variant._asdict()}
        try:
            reply = asks[variant.side]("prepare", **given, batch=size.batch, steps=size.steps)
        except WorkerError as error:
            failed.append(f"{case.name}, {variant.name}: {error}")
            _say(failed[-1])
        else:
            prepared[variant] = reply
            _say(f"{case.name}: {variant.name} is ready after {reply['seconds']:.0f} s")
    return prepared, failed


def _check_parameters(case: cases.Case, prepared: Mapping[cases.Variant, protocol.Reply]) -> None:
    # Keras's distiller wants a student with as many outputs as its teacher: no abstention.
    counts = {
        variant.name: reply["parameters"]
        for variant, reply in prepared.items()
        if not (variant.side == "keras" and case.teacher)
    }
    if len(set(counts.values())) > 1:
        raise WorkerError(f"{case.name}: the networks differ in their parameters: {counts}")


def _turns(
    asks: Mapping[str, Ask], variants: Sequence[cases.Variant], road: str, rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each round by variant: a round is one turn of each."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            reply = asks[variant.side]("turn", variant=variant.name, road=road)
            seconds[variant.name].append(reply["seconds"])
    return seconds


def _row(
    case: cases.Case, road: str, variant: cases.Variant, seconds: Seconds, size: Size
) -> dict[str, Any]:
    epochs = cases.INPUT_EPOCHS if road == cases.INPUT else 1
    images = epochs * size.steps * size.batch
    own = seconds[variant.name]
    row = {
        "case": case.name,
        "road": road,
        "variant": variant.name,
        "side": variant.side,
        "title": variant.title,
        "cached": variant.cached,
        "seconds": own,
        "images_per_second": images / statistics.median(own),
    }
    if REFERENCE in seconds:
        row["ratio"] = ratio(seconds[REFERENCE], own)
    if variant.cached and REFERENCE_CACHED in seconds:
        row["ratio_to_cached"] = ratio(seconds[REFERENCE_CACHED], own)
    return row


def processor() -> str:
    """Returns the name of this machine's processor."""
    path = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found[1] if found else platform.processor()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
