"""Monitors: how often they raise a false alarm, and how soon a true one.

python -m experiments.guarantees.monitoring [--draws=10000] --out=experiments/results/monitoring.md

A false alarm is one while the hypothesis of a test holds, at any time within the simulated stream.
The delay is the number of images from a change to the alarm.
"""

import argparse
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.guarantees import page
from experiments.guarantees.rows import Row
from kdjax import selective
from kdjax.selective import betting, drift

DELTA = 0.05
TESTS = 3  # that a monitor watches together
BATCH = 200  # streams that are held in memory at once
Draw = Callable[[np.random.Generator, int], np.ndarray]  # (rng, streams) -> values [streams, n]


class Delay(NamedTuple):
    """When alarms are raised after a change.

    Attributes:
        setting: what changes.
        draws: number of streams.
        early: share with an alarm before the change.
        found: share of the others with an alarm within the stream.
        median: delay that half of the others do not exceed; infinite if fewer are found.
        most: delay that nine tenths do not exceed.
        length: number of images after the change.
    """

    setting: str
    draws: int
    early: float
    found: float
    median: float
    most: float
    length: int


def binary_wealth(values: np.ndarray, mean: float) -> np.ndarray:
    """Returns log E of streams of values 0 and 1, `[s, n]`, tested for a mean above `mean`."""
    factors = betting.odds_factors(mean)
    log_factors = np.where(values[..., None], factors.of_one, factors.of_zero)
    return _wealth(log_factors)


def rank_wealth(counts: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns log E of streams of confidences in groups, `[s, n]`, after references `[s, b]`."""
    ranks, _ = selective.online_ranks(counts, groups, rng.random(groups.shape))
    return _wealth(drift.rank_factors(ranks))


def fixed_rank_wealth(
    counts: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns the same with ranks among the reference alone, which is not valid."""
    cumulative = np.cumsum(counts, axis=-1)
    equal = np.take_along_axis(counts, groups, -1) + 1
    below = np.take_along_axis(cumulative, groups, -1) - equal + 1
    ranks = (below + rng.random(groups.shape) * equal) / (cumulative[:, -1:] + 1)
    return _wealth(drift.rank_factors(ranks))


def _wealth(log_factors: np.ndarray) -> np.ndarray:
    start = np.full((log_factors.shape[0], log_factors.shape[-1]), -np.inf)
    return betting.advance(start, 0, log_factors)[0]


def check(rng: np.random.Generator) -> None:
    """Raises if the wealth of simulated streams is not that of a monitor."""
    wrong, confidence = rng.random(300) < 0.1, rng.normal(size=300)
    monitor = selective.Monitor(risk=0.05)
    own = binary_wealth(wrong[None], 0.05)[0]
    other = monitor.update(np.ones(300), ~wrong, confidence)["risk"]
    if not np.allclose(own, other, rtol=0, atol=1e-9):
        raise RuntimeError(f"simulated {own[-1]}, monitor {other[-1]}")


# False alarms


def independent(risk: float, length: int) -> Draw:
    """Returns streams of independent errors."""
    return lambda rng, streams: rng.random((streams, length)) < risk


def turns(risk: float, length: int) -> Draw:
    """Returns streams with 50 images at the risk and 50 without an error by turns."""
    return lambda rng, streams: (
        (rng.random((streams, length)) < risk) & (np.arange(length) % 100 < 50)
    )


def clusters(risk: float, length: int) -> Draw:
    """Returns streams in which an error is less likely unless one of the last 5 was wrong."""

    def draw(rng: np.random.Generator, streams: int) -> np.ndarray:
        luck, wrong = rng.random((streams, length)), np.zeros((streams, length), bool)
        for t in range(length):
            near = wrong[:, max(0, t - 5) : t].any(axis=1)
            wrong[:, t] = luck[:, t] < np.where(near, risk, risk / 2)
        return wrong

    return draw


BINARY: dict[str, tuple[Draw, float]] = {
    "risk: independent errors just at 5 %, 1,000 images": (independent(0.05, 1000), 0.05),
    "risk: independent errors just at 0.5 %, 2,000 images": (independent(0.005, 2000), 0.005),
    "risk: 5 % and 0 % by turns of 50, 1,000 images": (turns(0.05, 1000), 0.05),
    "risk: 5 % after an error, else 2.5 %, 1,000 images": (clusters(0.05, 1000), 0.05),
    "coverage: just at 80 %, 1,000 images": (independent(0.2, 1000), 0.2),
    "coverage: just at 99 %, 1,000 images": (independent(0.01, 1000), 0.01),
}

# Name -> size of the reference, length of the stream, number of different confidences.
EXCHANGEABLE = {
    "drift: reference 1,000, 500 images": (1000, 500, 32),
    "drift: reference 100, 500 images": (100, 500, 32),
    "drift: reference 20, 500 images": (20, 500, 32),
    "drift: reference 100, 3 different confidences, 500 images": (100, 500, 3),
}


def draw_groups(
    rng: np.random.Generator, streams: int, size: int, length: int, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns counts of references, `[s, b]`, and streams of groups, `[s, n]`, from one mixture."""
    weights = rng.dirichlet(np.full(groups, 2.0))
    values = rng.choice(groups, size=(streams, size + length), p=weights)
    flat = values[:, :size] + groups * np.arange(streams)[:, None]
    counts = np.bincount(flat.ravel(), minlength=groups * streams).reshape(streams, groups)
    return counts, values[:, size:]


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns how often each test alarms though its hypothesis holds.

    Args:
        draws: number of streams.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    check(rng)
    name = "bound of the coverage, the worst of all thresholds on 200 calibration images"
    rows = [Row(name, draws, DELTA, _bounds_violated(rng, draws, 200))]
    for name, (draw, mean) in BINARY.items():
        count = sum(_alarms(binary_wealth(draw(rng, size), mean)) for size in _sizes(draws))
        rows.append(Row(name, draws, DELTA, count))
    for name, (size, length, groups) in EXCHANGEABLE.items():
        pairs = (draw_groups(rng, streams, size, length, groups) for streams in _sizes(draws))
        count = sum(_alarms(rank_wealth(*pair, rng)) for pair in pairs)
        rows.append(Row(name, draws, DELTA, count))
    count = sum(_alarms_of_any(rng, streams) for streams in _sizes(draws))
    rows.append(Row("any of the three tests, 500 images", draws, DELTA, count))
    pairs = (draw_groups(rng, streams, 100, 500, 32) for streams in _sizes(draws))
    count = sum(_alarms(fixed_rank_wealth(*pair, rng)) for pair in pairs)
    name = "drift: ranks among a reference of 100 alone, 500 images"
    rows.append(Row(name, draws, DELTA, count, "not valid, not used", assumed=False))
    return rows


def _bounds_violated(rng: np.random.Generator, draws: int, size: int) -> int:
    """Returns how often the bound is above the true coverage of any threshold of a split."""
    bounds = [selective.least_coverage(k, size, delta=DELTA) for k in range(1, size + 1)]
    coverage = np.sort(rng.random((draws, size)), axis=1)  # of the k most confident examples
    return int(np.any(coverage < bounds, axis=1).sum())


def _alarms_of_any(rng: np.random.Generator, streams: int) -> int:
    """Returns how many streams have an alarm of any test, each at a third of delta."""
    accepted = rng.random((streams, 500)) < 0.8
    limit = math.log(TESTS / DELTA)
    alarms = binary_wealth(~accepted, 0.2).max(axis=1) >= limit
    risk = binary_wealth(rng.random((streams, 500)) < 0.05, 0.05) >= limit
    labelled = np.arange(500) < accepted.sum(axis=1, keepdims=True)  # the accepted ones
    alarms |= np.any(risk & labelled, axis=1)
    alarms |= rank_wealth(*draw_groups(rng, streams, 200, 500, 32), rng).max(axis=1) >= limit
    return int(alarms.sum())


def _alarms(log_wealth: np.ndarray) -> int:
    return int(np.sum(log_wealth.max(axis=1) >= -math.log(DELTA)))


def _sizes(draws: int) -> Iterator[int]:
    for start in range(0, draws, BATCH):
        yield min(BATCH, draws - start)


# Delays


def risk_change(before: float, after: float, change: int, length: int) -> Draw:
    """Returns streams of errors with another risk from image `change` on."""
    risks = np.where(np.arange(change + length) < change, before, after)
    return lambda rng, streams: rng.random((streams, len(risks))) < risks


def _change(
    before: float, after: float, mean: float, *, start: int = 0, length: int = 1500
) -> tuple[Draw, float, int]:
    return risk_change(before, after, start, length), mean, start


# Name -> streams, mean of the hypothesis, images before the change.
CHANGES: dict[str, tuple[Draw, float, int]] = {
    "risk 4 % instead of 2 %, from the start": _change(0, 0.04, 0.02, length=4000),
    "risk 4 % instead of 2 %, after 2,000 at 1 %": _change(
        0.01, 0.04, 0.02, start=2000, length=4000
    ),
    "risk 10 % instead of 5 %, from the start": _change(0, 0.1, 0.05),
    "risk 10 % instead of 5 %, after 2,000 at 2.5 %": _change(0.025, 0.1, 0.05, start=2000),
    "risk 20 % instead of 5 %, after 2,000 at 2.5 %": _change(0.025, 0.2, 0.05, start=2000),
    "coverage 70 % instead of 80 %, from the start": _change(0, 0.3, 0.2),
    "coverage 70 % instead of 80 %, after 2,000 at 85 %": _change(0.15, 0.3, 0.2, start=2000),
}
# Name -> shift of the confidence in standard deviations, share of shifted images, images before.
SHIFTS = {
    "confidences lower by 0.25 standard deviations, from the start": (-0.25, 1.0, 0),
    "confidences lower by 0.25 standard deviations, after 1,000": (-0.25, 1.0, 1000),
    "confidences lower by 0.5 standard deviations, after 1,000": (-0.5, 1.0, 1000),
    "20 % of the images lower by 2 standard deviations, after 1,000": (-2.0, 0.2, 1000),
}
REFERENCE = 1000  # confidences in the reference, and as many by which they are grouped


def delays(draws: int, seed: int) -> list[Delay]:
    """Returns the delays of alarms, each test at a third of delta.

    Args:
        draws: number of streams.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for name, (draw, mean, change) in CHANGES.items():
        first = [_first(binary_wealth(draw(rng, size), mean)) for size in _sizes(draws)]
        rows.append(_delay(name, *zip(*first, strict=True), change=change))
    for name, (shift, share, change) in SHIFTS.items():
        first = [_shifted(rng, size, shift, share, change) for size in _sizes(draws)]
        rows.append(_delay(name, *zip(*first, strict=True), change=change))
    return rows


def _shifted(
    rng: np.random.Generator, streams: int, shift: float, share: float, change: int
) -> tuple[np.ndarray, int]:
    values = rng.normal(size=(streams, change + 1000))
    moved = (rng.random(values.shape) < share) & (np.arange(values.shape[1]) >= change)
    values += shift * moved
    others, samples = rng.normal(size=REFERENCE), rng.normal(size=(streams, REFERENCE))
    references = [selective.drift_reference(sample, others=others) for sample in samples]
    groups = np.searchsorted(references[0].edges, values, side="right")  # the same for all
    counts = np.array([reference.counts for reference in references])
    return _first(rank_wealth(counts, groups, rng))


def _first(log_wealth: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the number of the image of each first alarm, infinite without one, and the length."""
    reached = log_wealth >= math.log(TESTS / DELTA)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf), reached.shape[1]


def _delay(name: str, first: Sequence[np.ndarray], lengths: Sequence[int], *, change: int) -> Delay:
    images = np.concatenate(first)
    late = np.sort(images[images > change] - change)
    median, most = (float(late[math.ceil(part * len(late)) - 1]) for part in (0.5, 0.9))
    early, found = 1 - len(late) / len(images), float(np.isfinite(late).mean())
    return Delay(name, len(images), early, found, median, most, lengths[0] - change)


def markdown(rows: Sequence[Row], delays: Sequence[Delay], command: str, seconds: float) -> str:
    """Returns the page of results."""
    error = 100 * (rows[0].limit() - rows[0].delta)
    lines = [
        "# Monitoring",
        "",
        f"```\n{command}\n```",
        "",
        f"False alarms of `kdjax.selective.Monitor` at delta = {100 * DELTA:g} % in "
        f"{rows[0].draws:,} streams a line, while the hypothesis of the test holds: an alarm at "
        "any time within the stream counts. The first line is the bound from which the coverage is "
        "watched: how often it is above the true coverage. Two standard errors of "
        f"{100 * DELTA:g} % are {error:.2f} points. Seed 0, "
        f"{seconds:.0f} s. Processor: {page.machine()}.",
        "",
        "| setting | false alarms, % | |",
        "|---|---|---|",
        *(f"| {row.setting} | {100 * row.frequency:.2f} | {row.note} |" for row in rows),
        "",
        "## Delay",
        "",
        f"Images from a change to the alarm, in {delays[0].draws:,} streams a line, with delta "
        f"divided among {TESTS} tests. Images are the accepted labelled ones for the risk, and all "
        f"for coverage and drift; the reference of drift has {REFERENCE:,} confidences.",
        "",
        "| change | half of the alarms within | nine tenths within | found, % | before, % |",
        "|---|---|---|---|---|",
    ]
    for row in delays:
        cells = [
            f"{value:,.0f}" if math.isfinite(value) else f"more than {row.length:,}"
            for value in (row.median, row.most)
        ]
        lines.append(
            f"| {row.setting} | {' | '.join(cells)} | {100 * row.found:.1f} | "
            f"{100 * row.early:.2f} |"
        )
    lines += [
        "",
        "found: share with an alarm within the simulated stream; before: with one before the "
        "change.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the page, or also writes it; exits with 1 if there are too many false alarms."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.guarantees.monitoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=10_000, help="streams in a setting")
    parser.add_argument("--out", type=pathlib.Path, help="the Markdown file to write")
    options = parser.parse_args()
    start = time.perf_counter()
    rows, found = simulate(options.draws, 0), delays(max(options.draws // 5, 1), 0)
    out = f" --out={options.out}" if options.out else ""
    command = f"python -m experiments.guarantees.monitoring --draws={options.draws}{out}"
    text = markdown(rows, found, command, time.perf_counter() - start)
    print(text)
    if options.out:
        options.out.write_text(text)
    if any(row.exceeds() for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
