"""Measures how often the verdicts of `experiments.paper` are wrong, by simulation.

python -m experiments.crossed_intervals

`experiments.paper.table.crossed_interval` decides which of two methods is better, from the
differences of a few seeds on the same test images. Here two methods do not differ, and each
comparison that is decided is an error. The sizes of the parts of the variance in the comparisons of
`experiments/results/paper` show which of the simulated cases are like them.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.paper import claims, result_files
from experiments.paper import table as paper
from experiments.paper.queue_options import RESULTS as FILES

COMMAND = "python -m experiments.crossed_intervals"
RESULTS = pathlib.Path(__file__).parent / "results" / "crossed_intervals.md"
SEEDS = (3, 5)
LEVELS = (10, 50, 90)  # percentiles over the comparisons


class Case(NamedTuple):
    """Standard deviations of the parts of a difference a_s + b_r + d_sr of seed s on images r.

    Attributes:
        seed: of a.
        common: of b.
        single: of d.
    """

    seed: float
    common: float
    single: float


CASES = (
    Case(1, 0, 0),
    Case(0, 1, 0),
    Case(0, 0, 1),
    Case(0, 0.4, 1),
    Case(0.5, 0.4, 1),
    Case(1, 0.4, 1),
    Case(2, 0.4, 1),
    Case(0, 1, 1),
    Case(1, 1, 1),
    Case(1, 1, 0),
    Case(1, 0.3, 0),
)


def error_rate(
    case: Case, seeds: int, *, draws: int, resamples: int, generator: np.random.Generator
) -> float:
    """Returns the share of comparisons of two equal methods that are decided.

    Args:
        case: the parts of the difference.
        seeds: of each comparison.
        draws: number of comparisons.
        resamples: of the images in each.
        generator: of random numbers.
    """

    def on_images(count: int) -> np.ndarray:
        common = case.common * generator.normal(size=count)
        return common + case.single * generator.normal(size=(seeds, count))

    decided = 0
    for _ in range(draws):
        per_seed = case.seed * generator.normal(size=seeds) + on_images(1)[:, 0]
        ends = paper.crossed_interval(per_seed.tolist(), on_images(resamples))
        decided += paper.Difference(per_seed.tolist(), *ends).sign != 0
    return decided / draws


def compared(groups: list[paper.Group]) -> Iterator[paper.Parts]:
    """Yields the parts of the variance in the comparisons of the claims with several seeds.

    Two networks that are right on the same images have no such parts and are left out.
    """
    for group in groups:
        for claim in claims.CLAIMS:
            for found in claims.findings(claim, group):
                per_seed, resampled = group.paired(found.row, found.other)[found.metric]
                parts = paper.variance_parts(per_seed, resampled)
                if len(per_seed) > 1 and parts.single > 0:
                    yield parts


def ratios(parts: list[paper.Parts]) -> str:
    """Returns percentiles of the parts, as multiples of the variance of d."""
    rows = [
        ("b^2 / d^2", [each.common / each.single for each in parts]),
        ("(a^2 + d^2) / d^2", [each.over_seeds / each.single for each in parts]),
    ]
    heads = " | ".join(f"{level}th percentile" for level in LEVELS)
    lines = [f"| estimate of | {heads} |", "| --- |" + " ---: |" * len(LEVELS)]
    for name, values in rows:
        cells = " | ".join(f"{value:.2f}" for value in np.percentile(values, LEVELS))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def report(*, draws: int, resamples: int, files: pathlib.Path) -> str:
    """Returns the page.

    Args:
        draws: number of comparisons in each case.
        resamples: of the images in each comparison.
        files: folder of the result files of `experiments.paper`.
    """
    generator = np.random.default_rng(0)
    heads = " | ".join(f"decided with {seeds} seeds, %" for seeds in SEEDS)
    lines = [
        f"| a | b | d | {heads} |",
        "| ---: | ---: | ---: |" + " ---: |" * len(SEEDS),
    ]
    for case in CASES:
        rates = (
            error_rate(case, seeds, draws=draws, resamples=resamples, generator=generator)
            for seeds in SEEDS
        )
        cells = (*(f"{part:g}" for part in case), *(f"{100 * rate:.1f}" for rate in rates))
        lines.append(f"| {' | '.join(cells)} |")
    parts = list(compared(result_files.read(files)))
    error = 100 * np.sqrt(paper.LEVEL * (1 - paper.LEVEL) / draws)
    table = "\n".join(lines)
    return f"""# How often equal methods are said to differ

Made by `{COMMAND} --draws={draws} --resamples={resamples}`.

A comparison of two methods has a difference for each seed, on test images that are the same for all
seeds. In this simulation the two methods do not differ. The measured difference of seed s on test
images r is

    a_s + b_r + d_sr

with normal parts of mean 0: a is what the seed does on all images, b what these images do alike in
all seeds, and d what they do in one seed only, as networks of different seeds are wrong on
different images. The columns are the standard deviations. Of {draws:,} comparisons of a line, the
table has the share that is decided, wrongly, by the 95 % interval of
[the paper's comparison](../../docs/results/comparison.md). The nominal rate is 5 %, with a standard
error of {error:.1f} points.

{table}

In the {len(parts)} comparisons of the claims that have several seeds, the parts are estimated as

{ratios(parts)}

The second line is the variance over two or three seeds, an inaccurate estimate, which can therefore
be below 1. Where d is largest, the interval is wider than needed: from a few seeds a cannot be told
from d, so there are fewer wrong decisions, and fewer right ones. It is narrower than it should be
where the seeds have most of the variance and images a smaller part: if the variance over seeds is
small by chance, it counts as if it came from many seeds.
"""


def main() -> None:
    """Writes experiments/results/crossed_intervals.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    flags = parser.parse_args()
    text = report(draws=flags.draws, resamples=flags.resamples, files=FILES)
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
