"""Whether labelled images refute a promise that was made for each predicted class.

If the selective risk is at most r within every class, it is so for all accepted images together.
Both are tested, with half of delta each: all together, and each of the j classes with a threshold
at delta / (2 j). A kept promise is then refuted with probability at most delta (union bound).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.promises import words
from kdjax.predict import verdicts

Values = dict[str, Any]


def check_classes(
    accepted: np.ndarray,
    correct: np.ndarray,
    predicted: np.ndarray,
    promised: Sequence[bool],
    *,
    risk: float,
    delta: float,
) -> Values:
    """Tests the hypothesis of each class that its selective risk is at most r.

    Args:
        accepted: bool [n].
        correct: bool [n].
        predicted: classes int [n].
        promised: whether something is promised for each of the m classes.
        risk: r in (0, 1).
        delta: probability that a kept promise of any class, or of all together, is refuted.

    Returns:
        `delta` of the test of each class; by class, as lists with None where nothing is promised:
        `p_value`, `refuted` and `refuting_errors`, see `selective.PromiseCheck`.
    """
    tail = delta / (2 * max(1, sum(promised)))
    checks = [
        selective.check_promise(accepted & (predicted == label), correct, risk=risk, delta=tail)
        if flag
        else None
        for label, flag in enumerate(promised)
    ]
    names = ("p_value", "refuted", "refuting_errors")
    return {
        "delta": tail,
        **{name: [check and getattr(check, name) for check in checks] for name in names},
    }


def verdict(
    by_class: Values, predicted: Mapping[str, Sequence[Any]], names: Sequence[str], risk: float
) -> str | None:
    """Returns in words which class refutes the promise; None if none does.

    Args:
        by_class: of `check_classes`.
        predicted: counts of the predicted classes, with `accepted` and `errors`.
        names: of the classes.
        risk: the promised selective risk in each class.
    """
    refuted = [label for label, flag in enumerate(by_class["refuted"]) if flag]
    if not refuted:
        return None
    label = min(refuted, key=by_class["p_value"].__getitem__)
    errors, accepted = (predicted[name][label] for name in ("errors", "accepted"))
    others = ", ".join(names[other] for other in refuted if other != label)
    tested = sum(value is not None for value in by_class["refuted"])
    measured = (
        f"{errors:,} of {accepted:,} images that are accepted as {names[label]} are wrong "
        f"({words.measured(errors / accepted)})"
    )
    p_value = by_class["p_value"][label]
    return (
        f"{verdicts.refuted(measured, risk, p_value, ' within each class')} (at most "
        f"{by_class['delta']:.2g} refutes, as {tested:,} classes are tested)"
        f"{f'; likewise {others}' if others else ''}"
    )


def not_refuted(by_class: Values) -> str:
    """Returns the sentence about the classes if the promise is not refuted."""
    tested = sum(value is not None for value in by_class["refuted"])
    if tested == 1:
        return ". The class with a threshold does not refute it either"
    return f". None of the {tested:,} classes with a threshold refutes it either"
