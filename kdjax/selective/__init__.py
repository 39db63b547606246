"""Selective classification: how confident a network is, and what abstaining by that buys."""

from kdjax.selective.calibration import (
    brier,
    expected_calibration_error,
    negative_log_likelihood,
)
from kdjax.selective.certificates import Certificate, learn_then_test, sgr
from kdjax.selective.metrics import (
    Curve,
    accept_at,
    augrc,
    aurc,
    auroc,
    coverage_at_risk,
    e_aurc,
    error_at_coverage,
    fpr_at_tpr,
    risk_coverage_curve,
    threshold_at_coverage,
)
from kdjax.selective.scores import (
    SCORES,
    margin,
    max_logit_pnorm,
    max_probability,
    negative_entropy,
    predict,
    reservation,
    softmax_response,
)
from kdjax.selective.uncertainty import Interval, bootstrap, compare

__all__ = [
    "SCORES",
    "Certificate",
    "Curve",
    "Interval",
    "accept_at",
    "augrc",
    "aurc",
    "auroc",
    "bootstrap",
    "brier",
    "compare",
    "coverage_at_risk",
    "e_aurc",
    "error_at_coverage",
    "expected_calibration_error",
    "fpr_at_tpr",
    "learn_then_test",
    "margin",
    "max_logit_pnorm",
    "max_probability",
    "negative_entropy",
    "negative_log_likelihood",
    "predict",
    "reservation",
    "risk_coverage_curve",
    "sgr",
    "softmax_response",
    "threshold_at_coverage",
]
