"""Coverage and selective risk by class at the operating point of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.certification import FALLBACK_COVERAGE, OperatingPoint, operating_point
from kdjax.evaluation.predictions import Predictions
from kdjax.runtime import atomic_io
from kdjax.selective.groups import LEVEL, GroupRates

# How examples are grouped, with the words for them in a warning.
GROUPINGS = {"true": "images of class {}", "predicted": "predictions of class {}"}


def per_class(
    results: Mapping[str, Any], test: Predictions, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns coverage and selective risk on test by true and by predicted class.

    At the certified threshold of a run; without one, at the threshold that accepts
    `FALLBACK_COVERAGE` % of dev.

    Args:
        results: content of `results.json`.
        test: logits [n, m+1] and labels [n] of the test split.
        class_names: m names, by label.

    Returns:
        See `at_operating_point`.
    """
    point = operating_point(results, fallback_coverage=FALLBACK_COVERAGE)
    return at_operating_point(point, test, class_names)


def at_operating_point(
    point: OperatingPoint, test: Predictions, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns coverage and selective risk by true and by predicted class, as values for JSON.

    Args:
        point: by which predictions are accepted.
        test: logits [n, m+1] and labels [n].
        class_names: m names, by label.

    Returns:
        `threshold` (None if infinite) and `threshold_from`, see `OperatingPoint`; `risk`, the
        certified one (None without a certificate); `level` of the intervals; `classes`, the names;
        `true` and `predicted`: the fields of `selective.GroupRates` as lists by class, with None
        for an undefined value; `warnings`: a sentence for each class that is (nearly) never
        accepted or that has a selective risk above the certified one, see `selective.flag_groups`.
    """
    predicted = selective.predicted_classes(test.logits)
    accepted = point.decide(test)
    correct = test.correct
    codes = {"true": test.labels, "predicted": predicted}
    risk = point.guarantee["risk"] if point.certified and point.guarantee else None
    rates = {
        grouping: selective.group_rates(
            accepted, correct, codes[grouping], num_groups=len(class_names)
        )
        for grouping in GROUPINGS
    }
    return {
        "threshold": atomic_io.finite_or_none(point.threshold),
        "threshold_from": point.source,
        "risk": risk,
        "level": LEVEL,
        "classes": list(class_names),
        **{grouping: _columns(values) for grouping, values in rates.items()},
        "warnings": [
            sentence
            for grouping, values in rates.items()
            for sentence in class_warnings(values, class_names, grouping, risk)
        ],
    }


def class_warnings(
    rates: GroupRates, class_names: Sequence[str], grouping: str, risk: float | None
) -> list[str]:
    """Returns a sentence for each class for which the threshold does not work.

    Args:
        rates: of the classes.
        class_names: m names.
        grouping: a key of `GROUPINGS`.
        risk: limit of the selective risk, certified or to be tested; None without one.
    """
    flags = selective.flag_groups(rates, risk=risk)
    nouns = [GROUPINGS[grouping].format(name) for name in class_names]
    rare = [
        f"{rates.accepted[i]:,} of {rates.examples[i]:,} {nouns[i]} are accepted "
        f"({_percent(rates.coverage[i])}), of all {_percent(rates.total_coverage)}"
        for i in np.argsort(rates.coverage, kind="stable")
        if flags.rare[i]
    ]
    return rare + [
        f"{rates.errors[i]:,} of {rates.accepted[i]:,} accepted {nouns[i]} are wrong "
        f"({_percent(rates.risk[i])}): significantly more than the limit of {100 * risk:g} %"
        for i in np.argsort(-rates.risk, kind="stable")
        if risk is not None and flags.risky[i]
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _columns(rates: GroupRates) -> dict[str, list[Any]]:
    """Returns the fields as lists, with None for NaN, which JSON has not."""
    return {
        field: [None if value != value else value for value in values.tolist()]
        for field, values in rates._asdict().items()
    }
