"""What the model card says for monitoring: the bounds that are watched, and confidences to compare.

`kdjax.predict.monitoring` reads it. Cards of earlier versions have the bounds, but no confidences.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective.drift import DriftReference

DELTA = 0.05  # of the bound on the coverage, if nothing else is stated


def monitoring(
    model_card: Mapping[str, Any], dev: np.ndarray, calibration: np.ndarray
) -> dict[str, Any]:
    """Returns the field `monitoring` of a card.

    Args:
        model_card: with `certificate`, `threshold`, `class_thresholds` and `operating_point`.
        dev: confidences [k] of the dev split, by whose quantiles those of calibration are grouped.
        calibration: confidences [n] of the calibration split.

    Returns:
        `risk` and `coverage`, see `bounds`, and `drift`: `edges` and `counts` of
        `selective.drift_reference`; None if no two finite confidences of dev differ.
    """
    try:
        reference = selective.drift_reference(calibration, others=dev)._asdict()
    except InputError:
        return {**bounds(model_card), "drift": None}
    return {**bounds(model_card), "drift": {name: list(part) for name, part in reference.items()}}


def bounds(model_card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the bounds of a model that a stream may contradict.

    Args:
        model_card: of any version.

    Returns:
        `risk`: `bound` and `delta` of the certificate; None without one. `coverage`: a lower
        `bound` on the acceptance with its `delta`, and the numbers of `accepted` and of all
        `images` of the `split` from which it comes, or the coverage that is promised together with
        the risk; None if nothing is accepted, or the card has no
        such numbers.
    """
    certificate = model_card["certificate"]
    risk = {name: certificate[key] for name, key in _RISK.items()} if certificate else None
    return {"risk": risk, "coverage": _coverage(model_card)}


_RISK = {"bound": "risk", "delta": "delta"}


def _coverage(model_card: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the bound on the acceptance.

    From calibration if a single threshold decides; several may fit calibration too well, and the
    bound then comes from test, which is used for no choice.
    """
    point = model_card.get("operating_point")
    joint = (model_card.get("promises") or {}).get("joint")
    # Of a model with thresholds of its classes, or another one, the joint promise is not about it.
    if joint and joint["coverage"] and joint["both"] and joint["used"] and joint["certified"]:
        bound = joint["at_risk"]["coverage"]
        return {"bound": bound, "delta": joint["delta"], "split": "calibration"}
    if not point or model_card["threshold"] is None:
        return None
    split = "test" if has_several_thresholds(model_card) else "calibration"
    figures = point["figures"][split]
    delta = (model_card["certificate"] or point.get("bound") or {}).get("delta", DELTA)
    bound = selective.least_coverage(
        figures["accepted"],
        figures["images"],
        delta=delta,
        threshold_from_sample=split == "calibration" and bool(model_card["certificate"]),
    )
    counts = {name: figures[name] for name in ("accepted", "images")}
    return {"bound": bound, "delta": delta, "split": split, **counts} if bound > 0 else None


def has_several_thresholds(model_card: Mapping[str, Any]) -> bool:
    """Returns whether more decides about an image than one threshold of its score."""
    return bool(model_card.get("class_thresholds") or model_card.get("gate"))


def reference_of(stored: Mapping[str, Any] | None) -> DriftReference | None:
    """Returns the reference sample of a card's `monitoring`; None without one."""
    if not stored or not stored["drift"]:
        return None
    return DriftReference(tuple(stored["drift"]["edges"]), tuple(stored["drift"]["counts"]))
