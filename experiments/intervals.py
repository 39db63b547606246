"""Measures how often the intervals that kdjax prints contain the true value.

python experiments/intervals.py

The terminal, the HTML pages and the model card print intervals of `selective.bootstrap` (metrics of
a run, and the band around its curve), of `selective.compare` (differences between runs) and of
proportions (accuracy, coverage and selective risk by class, the bins of a reliability diagram, and
`kdjax check`).

Each draw is a test set of n examples with uniform rank u, the most confident first, that are wrong
with probability a u^b. The true values are known: risk(c) = a c^b / (b + 1), AURC = a / (b + 1)^2,
AUGRC = a / ((b + 1) (b + 2)). For a pair of runs the ranks of the same examples have a correlation,
an example is wrong for both if its common uniform luck is below the smaller probability, and run b
has `ratio` times the errors of run a.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom

from kdjax import selective
from kdjax.selective import binomial

COVERAGES = (0.95, 0.9, 0.8, 0.7)
BAND = (0.6, 0.5, 0.4)  # lower coverages, of the bands only
LEAST_PRINTED = 100  # draws with an interval, for a share of them
FEW_DRAWS = 5  # times more draws for pairs with 3 or 9 errors: many of them give no interval
RESULTS = pathlib.Path(__file__).parent / "results" / "intervals.md"


class Setting(NamedTuple):
    """A distribution of test sets.

    Attributes:
        examples: n.
        error: the error rate, a / (b + 1).
        power: b; the larger, the better is the ranking.
        correlation: of the normal scores of the ranks of two runs.
        ratio: errors of run b over those of run a.
    """

    examples: int
    error: float
    power: float
    correlation: float = 0.6
    ratio: float = 1.5

    @property
    def truth(self) -> dict[str, float]:
        """The true values by metric."""
        factor, b = self.error * (self.power + 1), self.power
        return {
            "accuracy": 1 - self.error,
            "aurc": factor / (b + 1) ** 2,
            "augrc": factor / ((b + 1) * (b + 2)),
            **{f"error_at_{c}": factor * c**b / (b + 1) for c in (*COVERAGES, *BAND)},
        }

    @property
    def differences(self) -> dict[str, float]:
        """The true differences of run a from run b."""
        errors = {name: (1 - self.ratio) * value for name, value in self.truth.items()}
        return {**errors, "accuracy": (self.ratio - 1) * self.error}


# The digits run of the README: 359 test images, .84 % error.
FEW_ERRORS = Setting(359, 0.0084, 6)
SETTINGS = {
    "3 errors of 359 (digits run)": FEW_ERRORS,
    "9 errors of 359": Setting(359, 0.025, 6),
    "36 errors of 359": Setting(359, 0.1, 6, ratio=1.2),
    "120 errors of 400, a weak ranking": Setting(400, 0.3, 1, ratio=1.2),
}
# Differences are harder where a ranking is no better than chance, and the runs rank alike.
_HARD = {
    f"{errors} errors of 359, ranked by chance": Setting(359, errors / 359, 0, correlation=0.9)
    for errors in (9, 20)
}
PAIRS = {
    **{
        f"{each.ratio:g} times the errors; {name}": each
        for name, each in {**SETTINGS, **_HARD}.items()
    },
    **{
        f"equal runs; {name}": each._replace(ratio=1.0)
        for name, each in {**SETTINGS, **_HARD}.items()
    },
}

# Where the page, the terminal and the model card print the interval of a proportion, in the
# setting of the digits run: 359 test images, 36 of a class, and a reliability diagram, in which
# most are in the last bin. The last two are of `kdjax check` with other numbers of errors.
PROPORTIONS = {
    "accuracy, 359 images": (359, 1 - 0.0084),
    "selective risk, 323 accepted": (323, FEW_ERRORS.truth["error_at_0.9"]),
    "coverage, 359 images": (359, 0.9),
    "coverage of a class, 36 images": (36, 0.9),
    "risk of a class, 32 accepted": (32, FEW_ERRORS.truth["error_at_0.9"]),
    "risk of a hard class, 25 accepted": (25, 0.05),
    "reliability, bin of 340 images": (340, 0.995),
    "reliability, bin of 5 images": (5, 0.7),
    "check: risk, 2,000 accepted": (2000, 0.02),
    "check: coverage, 100 images": (100, 0.8),
}


class Measured(NamedTuple):
    """How often an interval contains the truth.

    Attributes:
        covered: share of the draws with an interval; nan if there are none.
        printed: draws with an interval.
    """

    covered: float
    printed: int


def single(setting: Setting, *, draws: int, resamples: int) -> dict[str, Measured]:
    """Measures the intervals of `bootstrap`, by metric."""

    def intervals(seed: int) -> dict[str, selective.Interval]:
        rng = np.random.default_rng(seed)
        u, luck = rng.random((2, setting.examples))
        sample = -u, luck >= _probability(setting, u)
        return selective.bootstrap(
            *sample, coverages=(*COVERAGES, *BAND), resamples=resamples, seed=seed
        )

    return _coverage(map(intervals, range(draws)), setting.truth)


def paired(setting: Setting, *, draws: int, resamples: int) -> dict[str, Measured]:
    """Measures the intervals of `compare`, by metric."""

    def intervals(seed: int) -> dict[str, selective.Interval]:
        rng = np.random.default_rng(seed)
        luck = rng.random(setting.examples)
        common, *own = rng.normal(size=(3, setting.examples))
        rho = setting.correlation
        ranks = [ndtr(np.sqrt(rho) * common + np.sqrt(1 - rho) * each) for each in own]
        samples = [
            (-u, luck >= ratio * _probability(setting, u))
            for u, ratio in zip(ranks, (1, setting.ratio), strict=True)
        ]
        a, b = samples
        return selective.compare(*a, *b, coverages=COVERAGES, resamples=resamples, seed=seed)

    truth = {name: setting.differences[name] for name in setting.differences if not _is_band(name)}
    return _coverage(map(intervals, range(draws)), truth)


def proportion(total: int, p: float) -> float:
    """Returns how often `proportion_interval` contains a probability p, without simulation."""
    likely = np.flatnonzero(binom.pmf(np.arange(total + 1), total, p) > 1e-12).tolist()
    intervals = {count: binomial.proportion_interval(count, total) for count in likely}
    covered = [count for count, (low, high) in intervals.items() if low <= p <= high]
    return float(np.sum(binom.pmf(covered, total, p)))


def _is_band(name: str) -> bool:
    return name.startswith("error_at_") and float(name.removeprefix("error_at_")) in BAND


def _probability(setting: Setting, u: np.ndarray) -> np.ndarray:
    return setting.error * (setting.power + 1) * u**setting.power


def _coverage(
    draws: Iterable[dict[str, selective.Interval]], truth: dict[str, float]
) -> dict[str, Measured]:
    draws = list(draws)
    result = {}
    for name, value in truth.items():
        printed = [each[name] for each in draws if each[name].exists]
        covered = [each.low <= value <= each.high for each in printed]
        result[name] = Measured(float(np.mean(covered)) if covered else np.nan, len(covered))
    return result


def table(rows: dict[str, dict[str, Measured]], draws: dict[str, int]) -> str:
    """Returns a table in Markdown: a row for each setting, the measured coverage in %.

    Args:
        rows: by setting and metric.
        draws: by setting; where not all have an interval, their share is added in brackets.
    """
    names = list(next(iter(rows.values())))
    heads = [
        f"risk at {100 * float(name.removeprefix('error_at_')):g} %"
        if name.startswith("error_at_")
        else {"accuracy": "accuracy"}.get(name, name.upper())
        for name in names
    ]
    lines = [f"| setting | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for setting, values in rows.items():
        cells = (_cell(values[name], draws[setting]) for name in names)
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(measured: Measured, draws: int) -> str:
    covered, printed = measured
    if printed == draws:
        return f"{100 * covered:.1f}"
    share = f"[{100 * printed / draws:.3g} %]"
    return share if printed < LEAST_PRINTED else f"{100 * covered:.1f} {share}"


def report(*, draws: int, resamples: int) -> str:
    """Returns the page with the measured coverage of all intervals."""
    start = time.process_time()
    of_runs = {
        name: single(each, draws=draws, resamples=resamples) for name, each in SETTINGS.items()
    }
    more = {
        name: draws * (FEW_DRAWS if setting.error * setting.examples < 10 else 1)
        for name, setting in PAIRS.items()
    }
    of_pairs = {
        name: paired(each, draws=more[name], resamples=resamples) for name, each in PAIRS.items()
    }
    proportions = "\n".join(
        f"| {name} | {n * min(p, 1 - p):.2g} | {100 * proportion(n, p):.1f} |"
        for name, (n, p) in PROPORTIONS.items()
    )
    minutes = (time.process_time() - start) / 60
    error = 100 * np.sqrt(0.95 * 0.05 / draws)
    band = ", ".join(f"{100 * coverage:g}" for coverage in BAND)
    command = " ".join(["python", *sys.argv])
    return f"""# Measured coverage of the 95 % intervals

Made by `{command}`: {draws:,} draws (seeds 0 to {draws - 1:,}) for each line,
{FEW_DRAWS} times as many for pairs of runs with 3 or 9 errors, {resamples:,} resamples of the
bootstrap, {minutes:.0f} minutes of CPU time. The standard error of a share of 95 % is
{error:.1f} points. Numbers of errors are means over the draws. These are all intervals that kdjax
prints; the first line of each table is the digits run, with 3 errors.

## One run (`selective.bootstrap`)

Risks at {band} % are shown as a band around the risk-coverage curve only.

{table(of_runs, dict.fromkeys(of_runs, draws))}

Accuracy and risk have Blaker's exact interval, which lies within that of Clopper and Pearson; the
latter covers the risk at 70 % of the digits run in 99.9 % of draws. The shorter mid-p interval
covers the accuracy in 91.8 % only. Where hardly an error occurs, any interval must cover nearly
always: at 60 % coverage of the digits run at most one error is accepted in 99.7 % of draws, at
40 % none in 99.5 %, at 30 % none in 99.9 %.

## Difference between two runs (`selective.compare`)

The errors of run b are given as a multiple of those of run a, of which the number is given. In
brackets: the share of draws in which a difference has an interval at all, if not all; the measured
coverage is among these, and left out if they are fewer than {LEAST_PRINTED}.

{table(of_pairs, more)}

{NOTE}

## Proportions (`binomial.proportion_interval`)

Exact probabilities, without simulation; expected: the rarer outcome, such as errors.

| interval | expected | covered, % |
| --- | ---: | ---: |
{proportions}
"""


# Of the differences.
NOTE = """A difference in accuracy or risk has an interval if the runs differ on at least 6
examples. If two equal runs differ on five or fewer, no test at 5 % can tell them apart: all five
favour the same run in 1 of 16 cases. An interval would then contain the difference nearly always.
A difference in AURC or AUGRC has one from 10 differing examples on. It is covered least often
where few errors are ranked by chance: there their weights differ most."""


def main() -> None:
    """Writes experiments/results/intervals.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    flags = parser.parse_args()
    text = report(draws=flags.draws, resamples=flags.resamples)
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
