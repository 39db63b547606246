"""Measures how often the verdicts of `experiments.paper` are wrong, by simulation.

python -m experiments.crossed_intervals

`experiments.paper.table.crossed_interval` decides which of two methods is better, from the
differences of a few seeds on the same test images. Here two methods do not differ: the difference
of seed s on images r is a_s + b_r + d_sr, with normal parts of mean 0, and each comparison that is
decided is an error. The resamples of images have the variance of the images. The sizes of the
parts in the comparisons of `experiments/results/paper` show which lines are like them.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.paper import claims
from experiments.paper import table as paper
from experiments.paper.queue_options import RESULTS as FILES

COMMAND = "python -m experiments.crossed_intervals"
RESULTS = pathlib.Path(__file__).parent / "results" / "crossed_intervals.md"
SEEDS = (3, 5)
LEVELS = (10, 50, 90)  # percentiles over the comparisons


class Case(NamedTuple):
    """Standard deviations of the parts of a difference.

    Attributes:
        seeds: a, of the seed on all images.
        images: b, of the images in all seeds.
        single: d, of the images in single seeds.
    """

    seeds: float
    images: float
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
        common = case.images * generator.normal(size=count)
        return common + case.single * generator.normal(size=(seeds, count))

    decided = 0
    for _ in range(draws):
        per_seed = case.seeds * generator.normal(size=seeds) + on_images(1)[:, 0]
        ends = paper.crossed_interval(per_seed.tolist(), on_images(resamples))
        decided += paper.Difference(per_seed.tolist(), *ends).sign != 0
    return decided / draws


def compared(groups: list[paper.Group]) -> Iterator[paper.Parts]:
    """Yields the parts of the variance in each comparison of the claims with several seeds."""
    for group in groups:
        for claim in claims.CLAIMS:
            for found in claims.findings(claim, group):
                per_seed, resampled = group.paired(found.row, found.other)[found.metric]
                if len(per_seed) > 1:
                    yield paper.variance_parts(per_seed, resampled)


def ratios(parts: list[paper.Parts]) -> str:
    """Returns percentiles of the parts, as multiples of the part of images in single seeds."""
    rows = [
        ("images in all seeds, b^2 / d^2", [each.images / each.single for each in parts]),
        ("seeds, (a^2 + d^2) / d^2", [each.seeds / each.single for each in parts]),
    ]
    heads = " | ".join(f"{level} % below" for level in LEVELS)
    lines = [f"| part | {heads} |", "| --- |" + " ---: |" * len(LEVELS)]
    for name, values in rows:
        cells = " | ".join(f"{value:.2f}" for value in np.percentile(values, LEVELS))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def report(*, draws: int, resamples: int, files: pathlib.Path) -> str:
    """Returns the page."""
    generator = np.random.default_rng(0)
    heads = " | ".join(f"decided with {seeds} seeds, %" for seeds in SEEDS)
    lines = [
        f"| a, seeds | b, images in all seeds | d, images in single seeds | {heads} |",
        "| ---: | ---: | ---: |" + " ---: |" * len(SEEDS),
    ]
    for case in CASES:
        rates = (
            error_rate(case, seeds, draws=draws, resamples=resamples, generator=generator)
            for seeds in SEEDS
        )
        cells = (*(f"{part:g}" for part in case), *(f"{100 * rate:.1f}" for rate in rates))
        lines.append(f"| {' | '.join(cells)} |")
    parts = list(compared(paper.read(files)))
    error = 100 * np.sqrt(0.05 * 0.95 / draws)
    table = "\n".join(lines)
    return f"""# How often equal methods are said to differ

Made by `{COMMAND} --draws={draws} --resamples={resamples}`: for each line,
{draws:,} comparisons of two methods that do not differ, decided by the 95 % interval of
[the paper's comparison](../../docs/results/comparison.md). Nominal are 5 %, with a
standard error of {error:.1f} points. The columns a, b and d are standard deviations.

{table}

The last two lines, without a part of images in single seeds, are not like real networks, which are
wrong on different images with each seed. In the {len(parts)} comparisons of the claims that have
several seeds, estimated from few seeds and therefore spread widely:

{ratios(parts)}

The interval is wider than needed where images in single seeds matter most, as from a few seeds
their part cannot be told from that of the seeds: fewer wrong decisions, and fewer right ones. It is
too narrow where seeds matter much more, as three seeds say little about their own variance.
"""


def main() -> None:
    """Writes experiments/results/crossed_intervals.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--files", type=pathlib.Path, default=FILES, help="of experiments.paper")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    flags = parser.parse_args()
    text = report(draws=flags.draws, resamples=flags.resamples, files=flags.files)
    flags.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
