"""What a run promises about new images: computed from predictions, stated in plain words.

One module for each promise, with its `PROMISE`; `PROMISES` names them in the order in which report,
console and model card show them.
"""

from collections.abc import Mapping
from typing import Any

from kdjax.evaluation.predictions import SPLITS
from kdjax.evaluation.promises import (
    by_class,
    by_group,
    cascade,
    gate,
    joint,
    ladder,
    selective_risk,
    sets,
)
from kdjax.evaluation.promises.base import Evidence, Extras, Promise, Statement, Table, evidence_of

PROMISES: dict[str, Promise] = {
    "selective_risk": selective_risk.PROMISE,
    "joint": joint.PROMISE,
    "ladder": ladder.PROMISE,
    "by_class": by_class.PROMISE,
    "by_group": by_group.PROMISE,
    "sets": sets.PROMISE,
    "cascade": cascade.PROMISE,
    "gate": gate.PROMISE,
}

__all__ = [
    "PROMISES",
    "Evidence",
    "Extras",
    "Promise",
    "Statement",
    "Table",
    "compute_all",
    "evidence_of",
    "statements",
]


def compute_all(evidence: Evidence) -> dict[str, Any]:
    """Returns `promises` of `results.json`: the values of each promise that the run can give."""
    evidence = gate.passing(evidence)
    # Most promises need the confidences of the same splits.
    evidence = evidence._replace(samples={split: evidence.sample(split) for split in SPLITS})
    values = {name: promise.compute(evidence) for name, promise in PROMISES.items()}
    return {name: value for name, value in values.items() if value is not None}


def statements(results: Mapping[str, Any]) -> list[Statement]:
    """Returns the statements of a run in the order of `PROMISES`.

    Args:
        results: content of `results.json`, or a model card; without `promises` if it is of an
            earlier version. Names that `PROMISES` does not have are ignored.
    """
    stored = results.get("promises") or {}
    by_name = {
        name: promise.statement(stored[name])
        for name, promise in PROMISES.items()
        if name in stored
    }
    if (stored.get("gate") or {}).get("threshold") is None:
        return list(by_name.values())
    return [
        each if name == "gate" else each._replace(scope=f"{each.scope}, {gate.OTHERS}")
        for name, each in by_name.items()
    ]
