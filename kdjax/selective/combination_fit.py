"""Fit of the score `combination`: a logistic regression on a development split; float64 numpy."""

import numpy as np
import scipy.special
from numpy.typing import NDArray

from kdjax.selective import log_odds, ranking, validation
from kdjax.selective.log_odds import EQUAL_WEIGHTS
from kdjax.selective.summary import is_correct, numpy_score

Coefficients = tuple[float, float, float]
PENALTY = 1.0  # lambda of `fit_combination`, as the default of scikit-learn
FOLDS = 10


def fit_combination(logits: np.ndarray, labels: np.ndarray) -> Coefficients:
    """Returns the coefficients of `combination` that maximize the likelihood of being correct.

    min_{b, w} sum_i log(1 + exp(-c_i (b + w . u_i))) + (lambda / 2) |w|^2, c_i = 1 if the
    prediction is correct, -1 if not; u_i are the log-odds of softmax response and reservation,
    with mean 0 and variance 1 over the split. The penalty makes the solution finite and unique.

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].

    Returns:
        (b, w_s, w_r), for log-odds that are not standardized; `EQUAL_WEIGHTS` if all predictions
        are correct or all are wrong.

    Raises:
        ValueError: for invalid logits or labels, see `is_correct`, or infinite log-odds.
    """
    return _fit(_inputs(logits), is_correct(logits, labels))


def cross_validated_combination_aurc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the AURC of `combination` on dev, as if it had been fitted without each example.

    AURC is a sum over the errors. Each error counts at its rank under the coefficients that were
    fitted without its fold, which has every `FOLDS`-th example. This value can be compared with
    the AURC of scores without parameters; that of the fit to the same split is lower.

    Args:
        logits: [n, m+1], the last column abstention.
        labels: [n].
    """
    inputs, correct = _inputs(logits), is_correct(logits, labels)
    fold = np.arange(len(correct)) % min(FOLDS, len(correct))
    weights, total = ranking.aurc_weights(len(correct)), 0.0
    for held_out in np.unique(fold[~correct]):
        rest = fold != held_out
        score = _score(inputs, _fit(inputs[rest], correct[rest]))
        terms = ranking.contributions(ranking.rank(score, correct), weights)
        total += float(terms[~rest].sum())
    return total


def _inputs(logits: np.ndarray) -> NDArray[np.float64]:
    """Returns the two log-odds of each example, [n, 2]."""
    scores = (log_odds.softmax_response_log_odds, log_odds.reservation_log_odds)
    odds = np.stack([numpy_score(s, logits).astype(np.float64) for s in scores], axis=1)
    validation.require(np.isfinite(odds), odds, "the log-odds of every example must be finite")
    return odds


def _score(inputs: NDArray[np.float64], coefficients: Coefficients) -> NDArray[np.float64]:
    return coefficients[0] + inputs @ np.array(coefficients[1:])


def _fit(inputs: NDArray[np.float64], correct: np.ndarray) -> Coefficients:
    if not len(correct) or correct.all() or not correct.any():
        return EQUAL_WEIGHTS
    mean, std = inputs.mean(axis=0), inputs.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    design = np.column_stack([np.ones(len(inputs)), (inputs - mean) / std])
    bias, *weights = _logistic_regression(design, correct)
    scaled = np.array(weights) / std
    return float(bias - scaled @ mean), float(scaled[0]), float(scaled[1])


def _logistic_regression(design: NDArray[np.float64], correct: np.ndarray) -> NDArray[np.float64]:
    """Returns the minimum of the penalized loss; the first column, of ones, has no penalty."""
    signs = np.where(correct, 1.0, -1.0)
    signed, penalty = design * signs[:, None], PENALTY * np.array([0.0, 1.0, 1.0])

    def loss(beta: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, -signed @ beta).sum() + penalty @ beta**2 / 2)

    def gradient(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        return -signed.T @ scipy.special.expit(-signed @ beta) + penalty * beta

    def hessian(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        p = scipy.special.expit(signed @ beta)
        return (signed * (p * (1 - p))[:, None]).T @ signed + np.diag(penalty)

    from scipy import optimize  # takes a tenth of a second, and only an evaluation needs it

    start = np.zeros(design.shape[1])
    options = {"gtol": 1e-8 * len(design)}
    minimum = optimize.minimize(
        loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options
    )
    return np.asarray(minimum.x)
