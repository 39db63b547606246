"""The comparison in a few lines: what each part of the method gave."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.paper import claims, collect, payoffs, training
from experiments.paper.claims import CONTRADICTED, HOLDS, UNDECIDED, Claim, Finding
from experiments.paper.table import ACCURACY, AURC, ERRORS, PAYOFF_BY_DEV, Group
from experiments.paper.tables import interval, word

IN_PART = "than {} in some comparisons"
# Verdicts of all comparisons of a line that are counted -> what they say together; {} is with what
# was compared.
WORDS = {
    frozenset(): "is not compared with {}, because one seed decides nothing",
    frozenset({HOLDS}): "is better than {}",
    frozenset({CONTRADICTED}): "is worse than {}",
    frozenset({UNDECIDED}): "is not shown to be better or worse than {}",
    frozenset({HOLDS, UNDECIDED}): f"is better {IN_PART}; the others are not decided",
    frozenset({CONTRADICTED, UNDECIDED}): f"is worse {IN_PART}; the others are not decided",
    frozenset({HOLDS, CONTRADICTED}): f"is better {IN_PART} and worse in others",
    frozenset({HOLDS, CONTRADICTED, UNDECIDED}): (
        f"is better {IN_PART} and worse in others; the rest are not decided"
    ),
}
STARTS = {
    collect.CHOSEN: "",
    collect.RESERVATION: "by the score of its loss, the reservation, it ",
}


class Line(NamedTuple):
    """A line of the summary.

    Attributes:
        subject: what is compared.
        other: with what.
        claim: which networks are compared by which metrics; all of them count.
        metric: whose values are shown.
    """

    subject: str
    other: str
    claim: Claim
    metric: str


# What the methods of `claims.JOINT` are.
JOINT = (
    "The gambler loss plus adjusted distillation",
    "The gambler loss of adjusted soft targets",
)
_ADJUSTMENT, _GAMBLER, _ = claims.CLAIMS
LINES = (
    Line(
        "Distillation (`kd`)",
        "cross-entropy (`ce`)",
        Claim("", "", ("kd",), ("ce",), (AURC,)),
        AURC,
    ),
    Line("Knowledge adjustment (`ka`)", "`kd`", _ADJUSTMENT, ACCURACY),
    Line("The gambler loss (`gambler`)", "cross-entropy", _GAMBLER, ERRORS[0.8]),
    *(
        Line(f"{text} (`{name}`)", "`kd`", Claim("", "", (name,), ("kd",), (AURC,)), AURC)
        for name, text in zip(claims.JOINT, JOINT, strict=True)
    ),
)


def text(groups: Sequence[Group]) -> str:
    """Returns a list of a few lines for each data set and setting, as Markdown."""
    parts = []
    for group in groups:
        lines = [*filter(None, (line_of(group, line) for line in LINES)), _limits(group)]
        parts.append(f"{_head(group)}\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


def _limits(group: Group) -> str:
    """Returns a sentence: what the comparison does not cover."""
    tuned = "payoffs, temperatures and weights"
    if group.payoffs:
        other = payoffs.untuned(group)
        tuned = "temperatures, weights and other payoffs" if other else "temperatures and weights"
    return (
        "Nothing is said about the paper's own networks, other data, other teachers, or tuned "
        f"{tuned}."
    )


def _head(group: Group) -> str:
    """Returns what was trained and how the networks are compared."""
    pairs = " or ".join(
        f"`{pair['teacher']['model']}` teaches `{pair['student']['model']}`"
        for pair in training.networks(group)
    )
    seeds = group.seeds
    facts = [pairs] if pairs else []
    if len(seeds) > 1:
        facts.append(f"{len(seeds)} seeds")
        over = "images and seeds"
        rule = "; a comparison is decided if its interval does not contain 0"
    else:
        facts.append("1 seed, so no comparison is decided")
        over, rule = "images", ""
    facts += ["one teacher of each kind for all seeds"] if training.shares_teacher(group) else []
    return (
        f"**{group.title}** ({'; '.join(facts)}; test, mirror views; in "
        f"parentheses: difference [95 % interval over {over}]{rule}):"
    )


def line_of(group: Group, line: Line) -> str:
    """Returns what a data set and setting says in one line; empty if it was not measured."""
    all_findings = list(claims.findings(line.claim, group))
    clauses = []
    for score in line.claim.scores:
        findings = [each for each in all_findings if each.row.score == score]
        if findings:
            clauses.append(f"{STARTS[score]}{_clause(line, findings)}")
    return f"{line.subject} {'; '.join(clauses)}." if clauses else ""


def _clause(line: Line, findings: Sequence[Finding]) -> str:
    shown = [each for each in findings if each.metric == line.metric]
    counted = claims.decidable(findings)
    words = WORDS[frozenset(each.verdict for each in counted)]
    judged = words.format(line.other)
    values = "; ".join(_value(each) for each in shown)
    return f"{judged}: {line.metric} {values}"


def _value(finding: Finding) -> str:
    """Returns the means of two networks over their common seeds, and their difference."""
    seeds = finding.group.common_seeds(finding.row, finding.other)
    values = (finding.group.values(row, "test", seeds) for row in (finding.row, finding.other))
    ours, theirs = (f"{np.mean(value[finding.metric]):.2f}" for value in values)
    teacher = finding.row.teacher or finding.other.teacher
    label = f"{word(teacher)} " if teacher else ""
    label += f"{PAYOFF_BY_DEV} " if finding.row == finding.row.by_dev else ""
    return f"{label}{ours} against {theirs} ({interval(finding.difference)})"
