"""Measures how often a certificate is violated if it is chosen among several, and the corrections.

python experiments/certificates.py [--draws=4000] --out=experiments/results/certificates.md

Calibration splits are drawn from distributions with a known risk at every threshold. The true risk
of the certified threshold is compared with the certified risk: for a fixed run and risk, for the
run or risk that looks best, and for the same choices at delta / S and delta / L.
"""

import argparse
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr, ndtr

from kdjax import selective
from kdjax.evaluation.certification import RISKS
from kdjax.selective.certificates import LEAST_ACCEPTED, TOLERATED_ERRORS

DELTA = 0.05
BATCH = 250  # draws that are held in memory at once


class Row(NamedTuple):
    """Violation frequencies of one setting, in [0, 1]."""

    setting: str
    draws: int
    fixed: float
    chosen: float
    corrected: float


class ErrorRate(NamedTuple):
    """Probability of an error at rank u in (0, 1), the most confident at 0: scale * u ** power."""

    scale: float
    power: float

    def at(self, ranks: np.ndarray) -> np.ndarray:
        """Returns the probability of an error at each rank."""
        return self.scale * ranks**self.power

    def risk(self, coverage: np.ndarray) -> np.ndarray:
        """Returns the true selective risk at each coverage, 0 where nothing is accepted."""
        return np.where(coverage > 0, self.scale * coverage**self.power / (self.power + 1), 0)


def first_count(n: int, risk: float, delta: float) -> int:
    """Returns the number of accepted examples at which `learn_then_test` starts."""
    counts = np.arange(LEAST_ACCEPTED, n + 1)

    def least(errors: int) -> int:
        return LEAST_ACCEPTED + int(np.sum(bdtr(errors, counts, risk) > delta))

    return max(least(0), min(least(TOLERATED_ERRORS), n // 4))


def certify(
    ranks: np.ndarray, wrong: np.ndarray, risk: float, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Certifies many samples at once by `selective.learn_then_test`.

    Args:
        ranks: [draws, n], sorted, distinct; minus the confidence.
        wrong: [draws, n].
        risk: to certify.
        delta: probability that the certificate may fail.

    Returns:
        The true coverage of each certified threshold, and its coverage on the sample, [draws]; 0
        without a threshold.
    """
    draws, n = ranks.shape
    first = first_count(n, risk, delta)
    if first > n:
        return np.zeros(draws), np.zeros(draws)
    accepted = np.arange(first, n + 1)
    passed = bdtr(wrong.cumsum(axis=1)[:, first - 1 :], accepted, risk) <= delta
    count = np.logical_and.accumulate(passed, axis=1).sum(axis=1)
    last = np.where(count > 0, first - 1 + count, 0)  # accepted examples
    below = ranks[:, -1] + (ranks[:, -1] - ranks[:, 0]) / (2 * (n - 1))
    following = np.concatenate([ranks, (2 * below - ranks[:, -1])[:, None]], axis=1)
    rows = np.arange(draws)
    half_way = (ranks[rows, last - 1] + following[rows, last]) / 2
    return np.where(last > 0, np.minimum(half_way, 1), 0), last / n


def check(ranks: np.ndarray, wrong: np.ndarray, risk: float, delta: float) -> None:
    """Raises if `certify` differs from the library on a sample, [1, n]."""
    coverage, _ = certify(ranks, wrong, risk, delta)
    threshold = selective.learn_then_test(-ranks[0], ~wrong[0], risk=risk, delta=delta).threshold
    expected = min(-threshold, 1) if math.isfinite(threshold) else 0
    if not np.isclose(coverage[0], expected, rtol=0, atol=1e-12):
        raise RuntimeError(f"certify: {coverage[0]}, learn_then_test: {expected}")


def choose_run(
    rng: np.random.Generator, *, draws: int, n: int, runs: int, shared: float, risk: float
) -> list[int]:
    """Counts violations: of the first run, of the one with the largest coverage, at delta / S.

    The confidence ranks of the runs have correlation `shared`; whether a rank is an error is drawn
    independently for each run.
    """
    rate = ErrorRate(0.47, 5)
    counts = np.zeros(3, int)
    common = rng.normal(size=(draws, 1, n))
    ranks = ndtr(
        math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=(draws, runs, n))
    )
    wrong = rng.random(ranks.shape) < rate.at(ranks)
    order = ranks.argsort(axis=-1)
    ranks, wrong = (np.take_along_axis(a, order, -1).reshape(-1, n) for a in (ranks, wrong))
    check(ranks[:1], wrong[:1], risk, DELTA)
    for column, delta in ((0, DELTA), (2, DELTA / runs)):
        coverage, observed = (a.reshape(draws, runs) for a in certify(ranks, wrong, risk, delta))
        violated = rate.risk(coverage) > risk
        best = violated[np.arange(draws), observed.argmax(axis=1)]
        if column == 0:
            counts[0] += violated[:, 0].sum()
            counts[1] += best.sum()
        else:
            counts[2] += best.sum()
    return [int(count) for count in counts]


def choose_risk(
    rng: np.random.Generator, *, draws: int, n: int, rate: ErrorRate, risks: tuple[float, ...]
) -> list[Any]:
    """Counts violations: of the middle risk, of the best-looking one, and of that at delta / L.

    The best-looking risk is that of the rule, of seven, that is violated most often: the smallest
    certified risk, the smallest with a coverage of at least c, or the largest coverage * (1 - k r).
    """
    ranks = np.sort(rng.random((draws, n)), axis=1)
    wrong = rng.random(ranks.shape) < rate.at(ranks)
    counts: list[Any] = []
    for delta in (DELTA, DELTA / len(risks)):
        pairs = [certify(ranks, wrong, risk, delta) for risk in risks]
        coverage, observed = (np.stack(values, axis=1) for values in zip(*pairs, strict=True))
        violated = rate.risk(coverage) > np.array(risks) + 1e-12
        if delta == DELTA:
            check(ranks[:1], wrong[:1], risks[0], delta)
            counts.append(int(violated[:, len(risks) // 2].sum()))
        counts.append(np.array([_chosen(violated, value) for value in _values(observed, risks)]))
    return counts


def _values(observed: np.ndarray, risks: tuple[float, ...]) -> list[np.ndarray]:
    """Returns how good each risk looks to several users, [draws, risks]; 0: not chosen."""
    values = [np.where(observed > least, 1 / np.array(risks), 0) for least in (0, 0.3, 0.6, 0.9)]
    return values + [observed * np.maximum(0, 1 - k * np.array(risks)) for k in (2, 10, 50)]


def _chosen(violated: np.ndarray, values: np.ndarray) -> int:
    best = values.argmax(axis=1)[:, None]
    chosen = np.take_along_axis(violated, best, 1) & (np.take_along_axis(values, best, 1) > 0)
    return int(chosen.sum())


def in_batches(count: Callable[..., list[Any]], draws: int, size: int) -> list[Any]:
    """Returns the sums of `count(draws=...)` over batches of draws."""
    batches = [count(draws=min(size, draws - start)) for start in range(0, draws, size)]
    return [sum(column) for column in zip(*batches, strict=True)]


def measure(draws: int, seed: int = 0) -> list[Row]:
    """Returns the violation frequencies of all settings."""
    rng = np.random.default_rng(seed)
    rows = []
    for runs, n, shared in ((2, 1000, 0.6), (5, 1000, 0.6), (10, 1000, 0.6), (7, 2000, 0.9)):
        count_runs = functools.partial(choose_run, rng, n=n, runs=runs, shared=shared, risk=0.02)
        counts = in_batches(count_runs, draws, BATCH)
        setting = f"largest coverage of {runs} runs, n = {n}, correlation {shared}"
        rows.append(Row(setting, draws, *(value / draws for value in counts)))
    fine = tuple(np.arange(0.2, 0.0049, -0.005).round(4).tolist())
    curves = {"0.47 u^5": ErrorRate(0.47, 5), "0.2 u": ErrorRate(0.2, 1)}
    # Just above a risk of the ladder everywhere, so that every certificate of it is a violation.
    curves |= {f"constant {risk}": ErrorRate(risk * (1 + 1e-6), 0) for risk in RISKS[1:4]}
    for name, rate in curves.items():
        for ladder, risks in (("ladder of 5 risks", RISKS), (f"scan of {len(fine)} risks", fine)):
            count_risks = functools.partial(choose_risk, rng, n=1000, rate=rate, risks=risks)
            fixed, chosen, corrected = in_batches(count_risks, draws, 2000)
            values = (fixed / draws, chosen.max() / draws, corrected.max() / draws)
            rows.append(Row(f"{ladder}, error rate {name}, n = 1000", draws, *values))
    return rows


def markdown(rows: list[Row], command: str, seconds: float) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Choosing among certificates",
        "",
        f"```\n{command}\n```",
        "",
        f"Violation frequency in % at delta = {100 * DELTA:g} %: how often the true risk of the "
        "threshold that Learn then Test certified exceeds the certified risk. fixed: run and risk "
        "chosen before; chosen: the best-looking one of S runs or L risks, chosen after a look at "
        "all certificates; corrected: the same choice with certificates at delta / S or delta / L. "
        f"Seed 0, {rows[0].draws:,} draws a line (two standard errors at 5 %: "
        f"{100 * margin(rows[0].draws):.2f}), {seconds:.0f} s on 2 cores.",
        "",
        "| setting | fixed | chosen | corrected |",
        "|---|---|---|---|",
    ]
    for row in rows:
        values = " | ".join(
            f"{100 * value:.2f}" for value in (row.fixed, row.chosen, row.corrected)
        )
        lines.append(f"| {row.setting} | {values} |")
    lines += [
        "",
        "For a choice among risks, the best-looking one is that of the rule, of seven, that is "
        "violated most often: the smallest certified risk, the smallest with a coverage above 30, "
        "60 or 90 %, or the largest coverage * (1 - k risk) for k = 2, 10, 50.",
    ]
    return "\n".join(lines) + "\n"


def margin(draws: int) -> float:
    """Returns two standard errors of a frequency of delta."""
    return 2 * math.sqrt(DELTA * (1 - DELTA) / draws)


def main() -> None:
    """Prints the table, or writes it; exits with 1 if a corrected frequency exceeds delta."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=4_000, help="calibration splits a setting")
    parser.add_argument("--out", type=pathlib.Path, help="the Markdown file to write")
    options = parser.parse_args()
    start = time.perf_counter()
    rows = measure(options.draws)
    command = f"python experiments/certificates.py --draws={options.draws} --out={options.out}"
    text = markdown(rows, command, time.perf_counter() - start)
    print(text)
    if options.out:
        options.out.write_text(text)
    if any(row.corrected > DELTA + margin(row.draws) for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
