"""The claims of the paper's abstract, and what the comparison says about each.

A claim says that some methods have a lower (or, of accuracy, higher) metric on test than others. It
holds for a data set, setting and teacher if the 95 % interval of the paired difference over test
images is on its side of 0 and the differences of all seeds are too; it is contradicted if both are
on the other side, and otherwise not decided.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.paper.table import Cells, Group, Row, differences, judged, pairs

HOLDS, CONTRADICTED, UNDECIDED = "holds", "contradicted", "not decided"


class Claim(NamedTuple):
    """A statement about two groups of methods.

    Attributes:
        text: after the abstract of the paper.
        methods: of which each has to be better than each of `others` with the same teacher.
        others: methods.
        metric: of `table.COMPARED`.
        sign: +1 if a higher metric is better, -1 if a lower one is.
    """

    text: str
    methods: tuple[str, ...]
    others: tuple[str, ...]
    metric: str
    sign: int


CLAIMS = (
    Claim(
        "Knowledge adjustment beats combining the losses of teacher and truth.",
        ("ka",),
        ("kd",),
        "accuracy %",
        +1,
    ),
    Claim(
        "The gambler loss gives a lower error at coverage.",
        ("gambler",),
        ("ce",),
        "error % at 80 % coverage",
        -1,
    ),
    Claim(
        "Both together are best.",
        ("ka_gambler_sum", "ka_gambler_soft"),
        ("ce", "kd", "ka", "gambler", "kd_gambler"),
        "AURC x 1000",
        -1,
    ),
)


class Finding(NamedTuple):
    """What a pair of networks says about a claim.

    Attributes:
        row: the network that should be better.
        other: the network that should be worse.
        per_seed: metric of `row` minus that of `other`, for each seed.
        low: lower end of the 95 % interval of the mean difference over test images.
        high: upper end.
        verdict: `HOLDS`, `CONTRADICTED` or `UNDECIDED`.
    """

    row: Row
    other: Row
    per_seed: Sequence[float]
    low: float
    high: float
    verdict: str


def findings(claim: Claim, rows: Mapping[Row, Cells]) -> Iterator[Finding]:
    """Yields what each pair of networks of a data set and setting says about a claim."""
    for row in judged(rows):
        for other in judged(rows):
            same_teacher = not row.teacher or not other.teacher or row.teacher == other.teacher
            named = row.method in claim.methods and other.method in claim.others
            paired = pairs(rows, row, other) if named and same_teacher else []
            if paired:
                per_seed, low, high = differences(paired)[claim.metric]
                yield Finding(
                    row, other, per_seed, low, high, verdict(claim.sign, per_seed, low, high)
                )


def verdict(sign: int, per_seed: Iterable[float], low: float, high: float) -> str:
    """Returns whether a difference confirms a claim.

    Args:
        sign: of a difference that confirms it.
        per_seed: differences of the seeds.
        low: lower end of the interval of the mean difference.
        high: upper end.
    """
    ends = sign * np.array([low, high, *per_seed])
    if (ends > 0).all():
        return HOLDS
    return CONTRADICTED if (ends < 0).all() else UNDECIDED


def section(groups: Mapping[Group, Mapping[Row, Cells]]) -> str:
    """Returns the claims with their findings, as Markdown.

    Args:
        groups: of `table.read`.
    """
    parts = ["## The claims", __doc__.split("\n\n")[1].replace("\n", " ")]
    for claim in CLAIMS:
        found = [(group, each) for group, rows in groups.items() for each in findings(claim, rows)]
        parts += [f"### {claim.text}", _counts([each for _, each in found])]
        if found:
            parts.append(_table(claim, found))
    return "\n\n".join(parts)


def _counts(found: Sequence[Finding]) -> str:
    """Returns a sentence: in how many comparisons a claim holds."""
    if not found:
        return "Nothing was measured."
    verdicts = [each.verdict for each in found]
    counts = ", ".join(
        f"{name} in {verdicts.count(name)}" for name in (HOLDS, UNDECIDED, CONTRADICTED)
    )
    return f"Of {len(found)} comparisons: {counts}."


def _table(claim: Claim, found: Iterable[tuple[Group, Finding]]) -> str:
    lines = [
        f"| data, setting | better? | than | teacher | {claim.metric}: difference | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for (data, setting), each in found:
        seeds = f"{len(each.per_seed)} seeds" if len(each.per_seed) > 1 else "1 seed"
        lines.append(
            f"| {data}, {setting} | {each.row.method} | {each.other.method} | "
            f"{each.row.teacher or each.other.teacher} | {np.mean(each.per_seed):+.2f} "
            f"[{each.low:+.2f}, {each.high:+.2f}], {seeds} | {each.verdict} |"
        )
    return "\n".join(lines)
