"""Names and values of scores for people: a log-domain score is shown as what it is the log of."""

from collections.abc import Mapping

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

LOG_ODDS, LOG = "log_odds", "log"
# Scores in the log domain with their scale: log-odds log(s / (1 - s)), or -log(1 - s).
SCALES: Mapping[str, str] = {
    "reservation_log_odds": LOG_ODDS,
    "softmax_response_log_odds": LOG_ODDS,
    "max_probability_log_odds": LOG_ODDS,
    "margin_log": LOG,
    "doctor": LOG_ODDS,
    "combination": LOG_ODDS,
}
# Scores that saturate, with the form in the log domain that new evaluations use instead.
LOG_FORMS: Mapping[str, str] = {
    "reservation": "reservation_log_odds",
    "softmax_response": "softmax_response_log_odds",
    "max_probability": "max_probability_log_odds",
    "margin": "margin_log",
}
_DISPLAY_NAMES = {
    "max_logit_pnorm": "MaxLogit-pNorm",
    "doctor": "DOCTOR",
    **{form: name.replace("_", " ") for name, form in LOG_FORMS.items()},
}


def display_name(score: str) -> str:
    """Returns the name of a score for people; a score and its log-domain form have the same."""
    return _DISPLAY_NAMES.get(score, score.replace("_", " "))


def shown(score: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns values of a score as people read them: s for a score in the log domain.

    s = 1 / (1 + exp(-x)) for log-odds x, 1 - exp(-x) for -log(1 - s); others are unchanged.

    Args:
        score: its name.
        values: of the score, of any shape.

    Returns:
        float64, of the same shape.
    """
    return on_scale(SCALES.get(score), values)


def on_scale(scale: str | None, values: ArrayLike) -> NDArray[np.float64]:
    """Returns values as people read them, see `shown`; a value of `SCALES`, or None."""
    array = np.asarray(values, np.float64)
    if scale == LOG_ODDS:
        return np.asarray(scipy.special.expit(array))
    return -np.expm1(-array) if scale == LOG else array


def scale_name(score: str) -> str:
    """Returns the scale of the values of a score in the log domain as text; empty for others."""
    return {LOG_ODDS: "log-odds", LOG: "-log(1 - s)"}.get(SCALES.get(score, ""), "")


def shown_threshold(score: str, threshold: float) -> str:
    """Returns a threshold as text: as people read it, and for a log-domain score as it is."""
    text = f"{float(shown(score, threshold)):.6g}"
    name = scale_name(score)
    return f"{text} ({name} {threshold:.6g})" if name else text
