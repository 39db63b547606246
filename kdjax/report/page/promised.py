"""The section "What is promised" of a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.evaluation import promises
from kdjax.evaluation.promises import terms
from kdjax.report.page import formatting
from kdjax.report.page.tables import Table


class RenderedStatement(NamedTuple):
    """A statement as the template shows it; see `promises.Statement`."""

    title: str
    sentences: Sequence[str]
    scope: str
    table: Table | None


class Section(NamedTuple):
    """The section.

    Attributes:
        reading: how to read it, in sentences.
        before: what all statements have in common, sentences by heading; above them.
        statements: in the order of `promises.PROMISES`.
        after: likewise, below them.
    """

    reading: Sequence[str]
    before: Mapping[str, Sequence[str]]
    statements: Sequence[RenderedStatement]
    after: Mapping[str, Sequence[str]]


def section(results: Mapping[str, Any]) -> Section | None:
    """Returns what a run promises; None for results of an earlier version.

    Args:
        results: content of `results.json`.
    """
    statements = promises.statements(results)
    if not statements:
        return None
    return Section(
        [_joined(sentence) for sentence in terms.READING],
        _by_heading(terms.before()),
        [_shown(statement) for statement in statements],
        _by_heading(terms.after(results["promises"])),
    )


def _by_heading(sections: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {heading: [*map(_joined, sentences)] for heading, sentences in sections.items()}


def _shown(statement: promises.Statement) -> RenderedStatement:
    table = statement.table
    return RenderedStatement(
        statement.title,
        [_joined(sentence) for sentence in statement.sentences],
        _joined(statement.scope[0].upper() + statement.scope[1:]),
        Table(table.heading, table.columns, [[*map(_joined, row)] for row in table.rows])
        if table
        else None,
    )


def _joined(text: str) -> str:
    """Returns a text without a line break before a percent sign."""
    return text.replace(" %", f"{formatting.SPACE}%")
