"""Thresholds by class or by group, as values for JSON; used by `by_class` and `by_group`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.certification import least_examples
from kdjax.evaluation.predictions import counts
from kdjax.evaluation.promises import words
from kdjax.runtime import atomic_io

SHOWN_NAMES = 12  # in a sentence

# Confidence [n], whether each prediction is correct [n], and the group of each [n].
GroupedSample = tuple[np.ndarray, np.ndarray, np.ndarray]


def certify(
    calibration: GroupedSample,
    test: GroupedSample,
    keys: Sequence[Any],
    *,
    risk: float,
    delta: float,
) -> dict[str, Any]:
    """Certifies a threshold for each group and evaluates it on test.

    Args:
        calibration: sample that was used for nothing else.
        test: sample of the test split.
        keys: the g groups, in the order of the result.
        risk: to be certified in each group, in (0, 1).
        delta: probability that the certificate of any group is wrong, in (0, 1).

    Returns:
        `risk`, `delta`, and `level`, at which each threshold is certified, see
        `selective.classwise`; by group, as lists: `threshold`, None where none is certified, and
        `tested`, whether the group has enough calibration images for any certificate; `calibration`
        and `test`, each with the lists `examples`, `accepted` and `errors` among the accepted.
    """
    confidence, correct, groups = calibration
    rule = selective.classwise(confidence, correct, groups, risk=risk, delta=delta)
    threshold = rule.threshold_of(keys)
    tested = set(rule.groups[rule.tested].tolist())
    return {
        "risk": risk,
        "delta": delta,
        "level": rule.level,
        "threshold": [atomic_io.finite_or_none(value) for value in threshold.tolist()],
        "tested": [key in tested for key in keys],
        "calibration": group_counts(rule.accepts(confidence, groups), correct, groups, keys),
        "test": group_counts(rule.accepts(test[0], test[2]), test[1], test[2], keys),
    }


def group_counts(
    accepted: np.ndarray, correct: np.ndarray, groups: np.ndarray, keys: Sequence[Any]
) -> dict[str, list[int]]:
    """Returns `examples`, `accepted` and `errors` among the accepted of each group, as lists."""
    of_groups = [counts(accepted[groups == key], correct[groups == key]) for key in keys]
    names = {"examples": "images", "accepted": "accepted", "errors": "errors"}
    return {name: [numbers[key] for numbers in of_groups] for name, key in names.items()}


def overall(values: Mapping[str, Any], images: Mapping[str, int]) -> dict[str, Any]:
    """Returns what the thresholds do over all groups together, as a certificate has it.

    Args:
        values: of `certify`, with at least one threshold.
        images: number of all images of calibration and of test.

    Returns:
        `threshold`, the lowest one; `coverage` of calibration, `risk_bound`, `test_coverage` and
        `test_error`, None if nothing of test is accepted; `level` of each group.
    """
    accepted = sum(values["test"]["accepted"])
    return {
        "threshold": min(value for value in values["threshold"] if value is not None),
        "coverage": sum(values["calibration"]["accepted"]) / images["calibration"],
        "risk_bound": values["risk"],
        "test_coverage": accepted / images["test"],
        "test_error": sum(values["test"]["errors"]) / accepted if accepted else None,
        "level": values["level"],
    }


def without(values: Mapping[str, Any], names: Sequence[str], word: str) -> list[str]:
    """Returns a sentence for the groups that have no threshold, by reason.

    Args:
        values: of `certify`.
        names: of the groups.
        word: the noun, such as `class`, in the plural.
    """
    rows = list(zip(names, values["threshold"], values["tested"], strict=True))
    few = [name for name, _, tested in rows if not tested]
    wrong = [name for name, threshold, tested in rows if tested and threshold is None]
    sentences = []
    if wrong:
        sentences.append(
            f"For {_which(wrong, names, word)} no image would be accepted, because too many "
            "calibration images were wrong."
        )
    if few:
        sentences.append(
            f"For {_which(few, names, word)} no image would be accepted, because there are too few "
            f"calibration images: even if none is wrong, {_needed(values, len(names), word)}."
        )
    return sentences


def _which(chosen: Sequence[str], names: Sequence[str], word: str) -> str:
    """Returns the chosen names, or `all 10 classes`."""
    return all_or_some(chosen, names, word) if chosen == list(names) else shortened(chosen, word)


def _needed(values: Mapping[str, Any], number: int, word: str) -> str:
    """Returns how many calibration images one more group needs, and how many all of them."""
    tested, singular = sum(values["tested"]), {"classes": "class", "groups": "group"}[word]
    # If one more group is tested, delta is divided among one more.
    one, each = (
        least_examples(values["risk"], values["delta"] / groups) for groups in (tested + 1, number)
    )
    which = "one more" if tested else "a single"
    if tested + 1 == number:
        return f"it needs {one:,}"
    return f"{which} {singular} needs {one:,}, and all {number:,} together {each:,} each"


def all_or_some(chosen: Sequence[str], names: Sequence[str], word: str) -> str:
    """Returns `all 3 classes`, or `2 of the 3 classes (a and b)`."""
    if len(chosen) == len(names):
        return f"all {len(names):,} {word}"
    listed = f" ({shortened(chosen, word)})" if chosen else ""
    return f"{len(chosen):,} of the {len(names):,} {word}{listed}"


def shortened(names: Sequence[str], word: str) -> str:
    """Returns the first names, and how many more there are.

    Args:
        names: at least one.
        word: what they are, in the plural.
    """
    more = len(names) - SHOWN_NAMES
    if more <= 1:
        return words.listed(names)
    return f"{', '.join(names[:SHOWN_NAMES])} and {more:,} more {word}"
