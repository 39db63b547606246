"""Three claims, derived from the paper's abstract, and what the comparison says about each.

A claim says that some methods have a lower (for accuracy, higher) metric on test than others. A
comparison of two networks is decided if the 95 % interval of their paired difference, over test
images and seeds, does not contain 0. One seed decides nothing: its comparisons are shown, but no
verdict depends on them. "Not decided" does not mean "equal": with three seeds, only large
differences can be detected.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.paper import collect, formats
from experiments.paper.table import (
    ACCURACY,
    AURC,
    ERRORS,
    LEVEL,
    PAYOFF_BY_DEV,
    Difference,
    Group,
    Row,
    comparable,
    payoffs_comparable,
)
from experiments.paper.tables import DESCRIPTION, Table, interval, listed, with_teacher, word

HOLDS, CONTRADICTED, UNDECIDED = "holds", "contradicted", "not decided"
SCORES = {collect.CHOSEN: "the score that dev chose", collect.RESERVATION: "the reservation"}


class Claim(NamedTuple):
    """A statement about two groups of methods.

    Attributes:
        text: after the abstract of the paper.
        meaning: what is compared, in words.
        methods: of which each has to be better than each of `others` with the same teacher.
        others: methods.
        metrics: of `table.METRICS`.
        scores: by which `methods` are ranked, each in turn; `others` by that chosen on dev.
        best: whether each of `methods` has to be better than all of `others` to confirm it.
    """

    text: str
    meaning: str
    methods: tuple[str, ...]
    others: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: tuple[str, ...] = (collect.CHOSEN,)
    best: bool = False


JOINT = ("ka_gambler_sum", "ka_gambler_soft")
CLAIMS = (
    Claim(
        "Knowledge adjustment beats combining a teacher loss with a label loss",
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
        "teacher. Both are ranked by the score that dev chose for each; separately, `gambler` is "
        "also ranked by the score of its own loss, the reservation.",
        ("gambler",),
        ("ce",),
        tuple(ERRORS.values()),
        scores=(collect.CHOSEN, collect.RESERVATION),
    ),
    Claim(
        "Both together are best",
        "AURC of the gambler loss joined with the adjusted teacher, as a sum or as soft targets, "
        "against that of each method with one of the two or none. A network confirms the claim "
        "only if it is better than every one of them.",
        JOINT,
        ("ce", "kd", "ka", "gambler", "kd_gambler"),
        (AURC,),
        best=True,
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
    """Returns the pairs that a claim compares, those of the same networks once."""
    pairs = (
        (group.distinct(row), group.distinct(other))
        for score in claim.scores
        for row in group.judged(score)
        for other in group.judged()
        if row.base.method in claim.methods
        and other.base.method in claim.others
        and comparable(row, other)
        and payoffs_comparable(row, other)
    )
    return list(dict.fromkeys(pairs))


def verdict(metric: str, difference: Difference) -> str:
    """Returns whether a difference decides that a network is better, or that it is worse."""
    better = difference.sign * (1 if metric == ACCURACY else -1)
    return {1: HOLDS, 0: UNDECIDED, -1: CONTRADICTED}[better]


def overall(verdicts: Iterable[str]) -> str:
    """Returns the verdict on a claim, from those of all comparisons."""
    names = set(verdicts)
    if not names:
        return "not measured with several seeds"
    if names == {HOLDS}:
        return "holds here"
    if names == {UNDECIDED}:
        return "not decided here"
    if HOLDS not in names:
        return "contradicted here" if names == {CONTRADICTED} else "not confirmed here"
    return "holds in part" if CONTRADICTED not in names else "holds in part, contradicted in part"


def section(groups: Sequence[Group]) -> str:
    """Returns the claims with verdicts, findings and the lowest means, as Markdown."""
    by_claim = [[each for group in groups for each in findings(claim, group)] for claim in CLAIMS]
    parts = [
        "## The claims",
        _rule([each for of_claim in by_claim for each in decidable(of_claim)], groups),
    ]
    for claim, of_claim in zip(CLAIMS, by_claim, strict=True):
        parts += [f"### {claim.text}", claim.meaning, _verdicts(claim, of_claim)]
        parts += filter(None, (_leader(claim, group) for group in groups))
        if claim.best and of_claim:
            if of_several := decidable(of_claim):
                parts.append(formats.markdown(_summary(of_several)))
            parts.append(formats.folded(_details(of_claim)))
        elif of_claim:
            parts.append(formats.markdown(_details(of_claim)))
    return "\n\n".join(parts)


def _rule(compared: Sequence[Finding], groups: Iterable[Group]) -> str:
    """Returns how a claim is judged, and how many comparisons would be decided by chance.

    Args:
        compared: with several seeds.
        groups: the results.
    """
    rule = str(__doc__).partition("\n\n")[2].strip().replace("\n", " ")
    judged = ((group, row) for group in groups for score in SCORES for row in group.judged(score))
    if any(group.distinct(row) != row for group, row in judged):
        rule += (
            " Where dev chose the payoff of the config for all seeds, the row with "
            f'"{PAYOFF_BY_DEV}" has the networks of that without and is not compared again.'
        )
    if not compared:
        return rule
    decided = sum(each.verdict != UNDECIDED for each in compared)
    return (
        f"{rule} Of the {len(compared)} comparisons with several seeds {decided} are decided. "
        "Intervals are not corrected for multiple comparisons: if no two networks differed, on "
        f"average {(1 - LEVEL) * len(compared):.1f} would be decided by chance at the nominal "
        f"level of {100 * LEVEL:g} %. Comparisons share networks and images, so they are not "
        "independent."
    )


def decidable(compared: Iterable[Finding]) -> list[Finding]:
    """Returns the comparisons with several seeds."""
    return [each for each in compared if len(each.difference.per_seed) > 1]


def _verdicts(claim: Claim, compared: Sequence[Finding]) -> str:
    """Returns the verdict on a claim by each of its scores."""
    sentences = []
    for score in claim.scores:
        some = [each for each in compared if each.row.score == score]
        by = f" by {SCORES[score]}" if len(claim.scores) > 1 else ""
        sentences.append(_best_sentence(some) if claim.best else _verdict_sentence(some, by))
    return " ".join(sentences)


def _verdict_sentence(compared: Sequence[Finding], by: str) -> str:
    """Returns the verdict on a claim, and in how many comparisons it holds."""
    verdicts = [each.verdict for each in decidable(compared)]
    counts = [f"{name} in {verdicts.count(name)}" for name in (HOLDS, UNDECIDED, CONTRADICTED)]
    seeds = "comparisons with several seeds"
    total = f" Of {len(verdicts)} {seeds}: {', '.join(counts)}." if verdicts else ""
    return f"**Verdict{by}: {overall(verdicts)}.**{total}"


def _best_sentence(compared: Sequence[Finding]) -> str:
    """Returns the verdict on a claim that networks are better than all others."""
    networks: dict[tuple[str, Row], list[Finding]] = {}
    for each in decidable(compared):
        networks.setdefault((each.group.title, each.row), []).append(each)
    verdicts = [of_best(each.verdict for each in some) for some in networks.values()]
    if not verdicts:
        return f"**Verdict: {overall(verdicts)}.**"
    best, worse = verdicts.count(HOLDS), verdicts.count(CONTRADICTED)
    text = (
        f"**Verdict: {overall(verdicts)}.** {best or 'None'} of {len(networks)} networks "
        f"{'are' if best > 1 else 'is'} better than every method with which it is compared"
    )
    if worse:
        methods = _methods(each for each in compared if each.verdict == CONTRADICTED)
        text += f"; {worse} {'are' if worse > 1 else 'is'} worse than one or more ({methods})"
    if undecided := verdicts.count(UNDECIDED):
        text += f"; {undecided} not decided"
    return f"{text}.{_gain_of_teacher(compared)}"


def of_best(verdicts: Iterable[str]) -> str:
    """Returns the verdict on a network that has to be better than every other one."""
    names = set(verdicts)
    if CONTRADICTED in names:
        return CONTRADICTED
    return UNDECIDED if UNDECIDED in names else HOLDS


def _gain_of_teacher(compared: Sequence[Finding]) -> str:
    """Returns a sentence: methods without a teacher than which plain distillation is better too."""
    beaten = []
    for each in compared:
        kd = each.group.reference(each.row, "kd")
        if each.verdict == HOLDS and not each.other.teacher and kd:
            difference = each.group.differences(kd, each.other).get(each.metric)
            if difference and verdict(each.metric, difference) == HOLDS:
                beaten.append(each)
    if not beaten:
        return ""
    return (
        f" `kd`, which has the teacher but no gambler loss, is also better than {_methods(beaten)} "
        "in such a comparison."
    )


def _methods(compared: Iterable[Finding]) -> str:
    return listed(dict.fromkeys(each.other.method for each in compared))


def _leader(claim: Claim, group: Group) -> str:
    """Returns a sentence: which of the compared networks has the best mean."""
    rows = sorted({row for pair in _pairs(claim, group) for row in pair})
    if not rows:
        return ""
    best = {metric: group.best(rows, "test", metric) for metric in claim.metrics}
    means = "; ".join(
        f"{metric} {group.mean(row, 'test', metric):.2f}, `{row.method}`{with_teacher(row)}"
        + ("" if row.score == collect.CHOSEN else f" by {SCORES[row.score]}")
        for metric, row in best.items()
    )
    which = "Highest" if ACCURACY in claim.metrics else "Lowest"
    return f"{which} {DESCRIPTION} among these methods, {group.title}: {means}."


def _summary(compared: Sequence[Finding]) -> Table:
    """Returns the methods than which each network is better, or worse: a line for each network."""
    by_network: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for each in compared:
        key = (each.group.title, each.row.method, _teacher(each))
        by_network.setdefault(key, {}).setdefault(each.verdict, []).append(each.other.method)
    lines = [
        [*key, *(", ".join(verdicts.get(name, ["-"])) for name in (HOLDS, UNDECIDED, CONTRADICTED))]
        for key, verdicts in by_network.items()
    ]
    columns = ["data", "method", "teacher", "better than", "not decided", "worse than"]
    return Table("Summary", columns, lines, len(columns))


def _details(compared: Sequence[Finding]) -> Table:
    """Returns every comparison: the verdict, and the interval that decides it."""
    lines = [
        [
            *(each.group.title, each.row.method, each.row.score, each.other.method, _teacher(each)),
            *(each.metric, _shown_verdict(each), interval(each.difference)),
            str(len(each.difference.per_seed)),
        ]
        for each in compared
    ]
    columns = ["data", "method", "by score", "compared with", "teacher", "metric", "verdict"]
    numbers = ["difference", "seeds"]
    return Table("Every comparison", [*columns, *numbers], lines, len(columns))


def _shown_verdict(finding: Finding) -> str:
    return finding.verdict if decidable([finding]) else "one seed"


def _teacher(finding: Finding) -> str:
    return word(finding.row.teacher or finding.other.teacher)
