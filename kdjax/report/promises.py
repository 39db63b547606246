"""What a run promises, on the terminal: the ladder of risks, and the statements in short."""

from collections.abc import Mapping
from typing import Any

from kdjax import selective
from kdjax.evaluation import promises
from kdjax.evaluation.certification import CERTIFIERS, LTT
from kdjax.evaluation.promises import ladder as ladders
from kdjax.evaluation.promises import words

LADDER = "ladder"
COLUMNS = (
    "certified risk %",
    "threshold",
    "coverage %",
    "test coverage %",
    "test risk %",
    "alone: coverage %",
    "alone: SGR %",
)
NAMES = {LTT: "Learn then Test", "sgr": "SGR"}


def ladder(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the values of the ladder of risks; None in results of an earlier version."""
    values: Mapping[str, Any] | None = (results.get("promises") or {}).get(LADDER)
    return values


def ladder_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the cells of `COLUMNS` for each risk of the ladder, numbers in percent."""
    values, score = (results["promises"][LADDER], results["best_score"])
    return [
        (
            f"{100 * rung['risk']:g}{' *' if rung['risk'] == values['risk'] else ''}",
            _threshold(score, rung["threshold"]),
            _share(rung["calibration"]),
            _share(rung["test"]),
            _error(rung["test"]),
            *(_share(rung["alone"][name]["calibration"]) for name in reversed(CERTIFIERS)),
        )
        for rung in values["rungs"]
    ]


def ladder_notes(results: Mapping[str, Any]) -> list[str]:
    """Returns what the rows of the ladder promise, in sentences."""
    values = results["promises"][LADDER]
    sure = f"{100 * (1 - values['delta']):g} %"
    runs = f" of {words.all_of(values['runs'], 'students')}" if values["runs"] > 1 else ""
    return [
        f"with a probability of at least {sure} over calibration splits, the selective risk on new "
        f"data is at most the certified risk in all rows{runs} together: any row may be chosen "
        "after a look at the table, and is used by kdjax export with its risk and "
        f"--delta={ladders.level(values)}",
        "alone: the coverage if this risk alone had been fixed before the calibration split was "
        f"seen, by {NAMES[LTT]} and by SGR; each of these holds with {sure}, not several together",
        f"* the requested risk: {_used(results)}",
    ]


def _used(results: Mapping[str, Any]) -> str:
    """Returns which threshold of the requested risk the run uses."""
    if results["guarantee"].get("joint", {}).get("both"):
        return "the run uses a threshold that also has the requested coverage"
    values = results["promises"][LADDER]
    if not values["alone_used"]:
        return "it was fixed beforehand"
    alone = next(each["alone"] for each in values["rungs"] if each["risk"] == values["risk"])
    return (
        f"as it was fixed beforehand, the run uses the threshold of {NAMES[LTT]} alone, with "
        f"{_share(alone[LTT]['calibration'])} % coverage"
    )


def ladder_title(results: Mapping[str, Any]) -> str:
    """Returns the title of the table."""
    examples = results["promises"][LADDER]["rungs"][0]["calibration"]["images"]
    return (
        f"Risks certified together for {selective.display_name(results['best_score'])} on the "
        f"calibration split ({examples:,} examples)"
    )


def in_short(results: Mapping[str, Any]) -> list[str]:
    """Returns a line for each statement but the ladder: its first sentence and its scope."""
    stored = results.get("promises") or {}
    others = {name: values for name, values in stored.items() if name != LADDER}
    return [
        f"{each.title}: {each.sentences[0]} [{each.scope}]"
        for each in promises.statements({**results, "promises": others})
    ]


def _threshold(score: str, threshold: float | None) -> str:
    return "none" if threshold is None else selective.shown_threshold(score, threshold)


def _share(split: Mapping[str, int]) -> str:
    return f"{100 * split['accepted'] / split['images']:.2f}"


def _error(split: Mapping[str, int]) -> str:
    return f"{100 * split['errors'] / split['accepted']:.2f}" if split["accepted"] else "-"
