"""Measures how often the intervals of `kdjax.selective` contain the true value.

python experiments/intervals.py

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

from kdjax import selective

COVERAGES = (0.95, 0.9, 0.8, 0.7)
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
            **{f"error_at_{c}": factor * c**b / (b + 1) for c in COVERAGES},
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
_HARD = {"20 errors of 359, ranked by chance": Setting(359, 20 / 359, 0, correlation=0.9)}
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


def single(setting: Setting, *, draws: int, resamples: int) -> dict[str, float]:
    """Returns how often the intervals of `bootstrap` contain the true value, by metric."""

    def intervals(seed: int) -> dict[str, selective.Interval]:
        rng = np.random.default_rng(seed)
        u, luck = rng.random((2, setting.examples))
        sample = -u, luck >= _probability(setting, u)
        return selective.bootstrap(*sample, coverages=COVERAGES, resamples=resamples, seed=seed)

    return _coverage(map(intervals, range(draws)), setting.truth)


def paired(setting: Setting, *, draws: int, resamples: int) -> dict[str, float]:
    """Returns how often the intervals of `compare` contain the true difference, by metric."""

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

    return _coverage(map(intervals, range(draws)), setting.differences)


def _probability(setting: Setting, u: np.ndarray) -> np.ndarray:
    return setting.error * (setting.power + 1) * u**setting.power


def _coverage(
    draws: Iterable[dict[str, selective.Interval]], truth: dict[str, float]
) -> dict[str, float]:
    covered = [
        [each[name].low <= value <= each[name].high for name, value in truth.items()]
        for each in draws
    ]
    return dict(zip(truth, np.mean(covered, axis=0).tolist(), strict=True))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Returns a table in Markdown: a row for each setting, the measured coverage in %."""
    names = list(next(iter(rows.values())))
    heads = [
        f"risk at {100 * float(name.removeprefix('error_at_')):g} %"
        if name.startswith("error_at_")
        else {"accuracy": "accuracy"}.get(name, name.upper())
        for name in names
    ]
    lines = [f"| setting | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for setting, values in rows.items():
        cells = (f"{100 * values[name]:.1f}" for name in names)
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(*, draws: int, resamples: int) -> str:
    """Returns the page with the measured coverage of all intervals."""
    start = time.process_time()
    options = {"draws": draws, "resamples": resamples}
    of_runs = {name: single(each, **options) for name, each in SETTINGS.items()}
    of_pairs = {name: paired(each, **options) for name, each in PAIRS.items()}
    command = " ".join(["python", *sys.argv])
    return f"""# Measured coverage of the 95 % intervals

Made by `{command}`: {draws:,} draws for each line, {resamples:,} resamples of the bootstrap,
{(time.process_time() - start) / 60:.0f} minutes of CPU time. The standard error of a share of 95 %
is {100 * np.sqrt(0.95 * 0.05 / draws):.1f} points. Numbers of errors are means over the draws.

## One run (`selective.bootstrap`)

{table(of_runs)}

## Difference between two runs (`selective.compare`)

The errors of run b are given as a multiple of those of run a, of which the number is given.

{table(of_pairs)}

Shares above 99.7 % come from few errors, which can take few values. The exact interval of a
proportion must contain every rate that is compatible with the count: at 70 % coverage of the digits
run, where .25 errors are expected, it misses the rate only if three or more are seen, which has a
probability of .2 %. (The mid-p interval, which is shorter, would cover the accuracy there with a
probability of 91.8 % only.) If two equal runs differ on five examples or fewer, no test at 5 % can
tell them apart: all five favour the same run in 1 of 16 cases. From 9 errors on, which are about 13
differing examples, AURC and AUGRC are covered in 94.8 to 99.4 % of draws, except for equal runs
that rank by chance: their errors cancel almost, and an unseen error counts with its full weight.
"""


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
