"""The certified risks of a run on the terminal, and what it promises in short."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from kdjax import selective
from kdjax.evaluation.certification import CERTIFIERS, CHOICE, LTT, seen_images_note
from kdjax.report import promises, terminal


def table(results: Mapping[str, Any]) -> Group:
    """Returns the risks that are certified together; of earlier versions, each risk alone."""
    if promises.ladder(results) is None:
        return _alone(results)
    shown = terminal.table(promises.ladder_title(results), *promises.COLUMNS)
    for cells in promises.ladder_rows(results):
        shown.add_row(*cells)
    notes = (*promises.ladder_notes(results), seen_images_note(results))
    return Group(shown, *terminal.notes(*notes))


def promised(results: Mapping[str, Any]) -> list[Text]:
    """Returns what is promised in a few lines; empty for results of an earlier version."""
    lines = promises.in_short(results)
    title = Text("What is promised about new images like those of the calibration split", "bold")
    return [title, *terminal.notes(*lines)] if lines else []


def _alone(results: Mapping[str, Any]) -> Group:
    """Returns the certificates of each risk alone, as of results of an earlier version."""
    guarantee, score = results["guarantee"], results["best_score"]
    shown = terminal.table(
        f"Thresholds of {selective.display_name(score)} certified on the calibration split "
        f"({guarantee['examples']:,} examples)",
        "certified risk %",
        "certified by",
        "threshold",
        "coverage %",
        "test coverage %",
        "test risk %",
    )
    used = guarantee["risk"], LTT
    for entry in guarantee["certificates"]:
        for name in CERTIFIERS:
            values = entry[name]
            threshold = values["threshold"]
            shown.add_row(
                f"{100 * entry['risk']:g}{' *' if used == (entry['risk'], name) else ''}",
                name,
                "none" if threshold is None else selective.shown_threshold(score, threshold),
                terminal.percent(values["coverage"]),
                terminal.percent(values["test_coverage"]),
                terminal.percent(values["test_error"]),
            )
    notes = [
        f"with probability {100 * (1 - guarantee['delta']):g} % over calibration splits, the "
        "selective risk on new data is at most",
        "the certified risk; each line holds on its own, not all of them together",
        "* the requested risk, with the threshold that the run uses",
        *textwrap.wrap(CHOICE, terminal.MIN_WIDTH - 10),
        *textwrap.wrap(seen_images_note(results), terminal.MIN_WIDTH - 10),
    ]
    if together := simultaneous_coverage(guarantee):
        values = ", ".join(
            f"{100 * risk:g}: {terminal.percent(value)}" for risk, value in together.items()
        )
        notes += [
            f"with --delta={guarantee['simultaneous']['delta']:.3g} the certificates of learn_then_"
            f"test {_scope(guarantee)} hold together;",
            f"coverage % by certified risk %: {values}",
        ]
    return Group(shown, *map(Text, notes))


def simultaneous_coverage(guarantee: Mapping[str, Any]) -> dict[float, float]:
    """Returns the coverage by risk of the certificates that hold together at delta / (S L).

    Only results of versions before the ladder of risks have them, as `simultaneous`; else empty.
    """
    simultaneous = guarantee.get("simultaneous", {"certificates": []})
    return {entry["risk"]: entry[LTT]["coverage"] for entry in simultaneous["certificates"]}


def _scope(guarantee: Mapping[str, Any]) -> str:
    """Returns which certificates hold together."""
    runs = guarantee["runs"]
    students = f" and of all {runs} students" if runs > 1 else ""
    return f"at all these risks{students}"
