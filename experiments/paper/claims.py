"""The claims of the paper's abstract, and what the comparison says about each.

A claim says that some methods have a lower (or, of accuracy, higher) metric on test than others. It
holds in a comparison of two networks if the 95 % interval of their paired difference is on its side
of 0 and the differences of all seeds are too; it is contradicted if both are on the other side, and
otherwise not decided. Intervals are over test images and seeds, and are not widened for the number
of comparisons.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.paper import formats
from experiments.paper.table import ACCURACY, AURC, ERRORS, Difference, Group, Row, comparable
from experiments.paper.tables import Table, interval, with_teacher, word

HOLDS, CONTRADICTED, UNDECIDED = "holds", "contradicted", "not decided"


class Claim(NamedTuple):
    """A statement about two groups of methods.

    Attributes:
        text: after the abstract of the paper.
        meaning: what is compared, in words.
        methods: of which each has to be better than each of `others` with the same teacher.
        others: methods.
        metrics: of `table.METRICS`.
    """

    text: str
    meaning: str
    methods: tuple[str, ...]
    others: tuple[str, ...]
    metrics: tuple[str, ...]


CLAIMS = (
    Claim(
        "Knowledge adjustment beats combining the losses of teacher and truth",
        "Accuracy of `ka`, which learns from the teacher corrected by the label, against that of "
        "`kd`, which adds the loss of the label to that of the teacher as it is. Where a teacher "
        "is right on every training image there is nothing to correct; the two then differ by the "
        "loss of the label only.",
        ("ka",),
        ("kd",),
        (ACCURACY,),
    ),
    Claim(
        "The gambler loss gives a lower error at coverage",
        "Error of `gambler` against that of cross-entropy, `ce`, at each coverage; both without a "
        "teacher, and each ranked by the score that dev chose for it.",
        ("gambler",),
        ("ce",),
        tuple(ERRORS.values()),
    ),
    Claim(
        "Both together are best",
        "AURC of the gambler loss joined with the adjusted teacher, as a sum or as soft targets, "
        "against that of each method with one of the two or none.",
        ("ka_gambler_sum", "ka_gambler_soft"),
        ("ce", "kd", "ka", "gambler", "kd_gambler"),
        (AURC,),
    ),
)


class Finding(NamedTuple):
    """What a pair of networks says about a claim.

    Attributes:
        group: data set and setting.
        row: the network that should be better.
        other: the network that should be worse.
        metric: of `table.METRICS`.
        difference: metric of `row` minus that of `other`.
        verdict: `HOLDS`, `CONTRADICTED` or `UNDECIDED`.
    """

    group: Group
    row: Row
    other: Row
    metric: str
    difference: Difference
    verdict: str


def findings(claim: Claim, group: Group) -> Iterator[Finding]:
    """Yields what each pair of networks of a data set and setting says about a claim."""
    for row, other in _pairs(claim, group):
        for metric, difference in group.differences(row, other).items():
            if metric in claim.metrics:
                yield Finding(group, row, other, metric, difference, verdict(metric, difference))


def _pairs(claim: Claim, group: Group) -> list[tuple[Row, Row]]:
    rows = group.judged()
    return [
        (row, other)
        for row in rows
        for other in rows
        if row.method in claim.methods and other.method in claim.others and comparable(row, other)
    ]


def verdict(metric: str, difference: Difference) -> str:
    """Returns whether a difference confirms that a network is better."""
    sign = 1 if metric == ACCURACY else -1
    ends = [sign * end for end in (difference.low, difference.high, *difference.per_seed)]
    if min(ends) > 0:
        return HOLDS
    return CONTRADICTED if max(ends) < 0 else UNDECIDED


def overall(verdicts: Iterable[str]) -> str:
    """Returns the verdict on a claim, from those of all comparisons."""
    found = set(verdicts)
    if not found:
        return "not measured"
    if found == {HOLDS}:
        return "holds here"
    if found == {UNDECIDED}:
        return "not decided here"
    if HOLDS not in found:
        return "contradicted here" if found == {CONTRADICTED} else "not confirmed here"
    return "holds in part" if CONTRADICTED not in found else "holds in part, contradicted in part"


def section(groups: Sequence[Group]) -> str:
    """Returns the claims with verdicts, findings and the best methods, as Markdown."""
    parts = ["## The claims", str(__doc__).partition("\n\n")[2].strip().replace("\n", " ")]
    for claim in CLAIMS:
        found = [each for group in groups for each in findings(claim, group)]
        parts += [f"### {claim.text}", claim.meaning, _verdict_sentence(found)]
        parts += filter(None, (_leader(claim, group) for group in groups))
        if len(claim.others) > 1 and found:
            parts += [formats.markdown(_summary(found)), formats.folded(_details(found))]
        elif found:
            parts.append(formats.markdown(_details(found)))
    return "\n\n".join(parts)


def _verdict_sentence(found: Sequence[Finding]) -> str:
    """Returns the verdict on a claim, and in how many comparisons it holds."""
    verdicts = [each.verdict for each in found]
    counts = [f"{name} in {verdicts.count(name)}" for name in (HOLDS, UNDECIDED, CONTRADICTED)]
    total = f" Of {len(found)} comparisons: {', '.join(counts)}." if found else ""
    return f"**Verdict: {overall(verdicts)}.**{total}"


def _leader(claim: Claim, group: Group) -> str:
    """Returns a sentence: which of the compared networks has the best mean."""
    rows = sorted({row for pair in _pairs(claim, group) for row in pair})
    if not rows:
        return ""
    best = {metric: group.best(rows, "test", metric) for metric in claim.metrics}
    means = "; ".join(
        f"{metric} {group.mean(row, 'test', metric):.2f}, `{row.method}`{with_teacher(row)}"
        for metric, row in best.items()
    )
    return f"Best of these methods on {group.title}, means over seeds on test: {means}."


def _summary(found: Sequence[Finding]) -> Table:
    """Returns the methods than which each network is better, or worse: a line for each network."""
    by_network: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for each in found:
        key = (each.group.title, each.row.method, _teacher(each))
        by_network.setdefault(key, {}).setdefault(each.verdict, []).append(each.other.method)
    lines = [
        [*key, *(", ".join(verdicts.get(name, ["-"])) for name in (HOLDS, UNDECIDED, CONTRADICTED))]
        for key, verdicts in by_network.items()
    ]
    columns = ["data", "method", "teacher", "better than", "not decided", "worse than"]
    return Table("Summary", columns, lines, len(columns))


def _details(found: Sequence[Finding]) -> Table:
    """Returns every comparison: the difference, and the verdict."""
    lines = [
        [
            *(each.group.title, each.row.method, each.other.method, _teacher(each), each.metric),
            *(each.verdict, interval(each.difference), str(len(each.difference.per_seed))),
        ]
        for each in found
    ]
    columns = ["data", "better?", "than", "teacher", "metric", "verdict", "difference", "seeds"]
    return Table("Every comparison", columns, lines, 6)


def _teacher(finding: Finding) -> str:
    return word(finding.row.teacher or finding.other.teacher)
