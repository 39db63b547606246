"""The promise on the prediction sets that the model gives when it abstains."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax import selective
from kdjax.evaluation.certification import CHOSEN_ON_CALIBRATION
from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement
from kdjax.runtime import atomic_io
from kdjax.selective import SetMetrics, SetRule, joint, set_rule
from kdjax.selective.set_scores import Floats

TITLE = "Prediction sets when the model abstains"
# Of a config of a version without these fields, which promised no sets.
ALPHA, METHOD = 0.1, "lac"
SHOWN_SIZES = 4  # sizes of sets that a sentence tells apart


def compute(evidence: Evidence) -> dict[str, Any]:
    """Returns the quantiles of the sets, and what the sets are on test.

    Returns:
        `alpha` and `method`, see the config; `k_reg` and `penalty` of `raps`, fitted on dev;
        `marginal`: the `quantile` of the scores of all calibration images, and their number,
        `examples`; `rejected`: `quantile`, `below` and `examples` of `selective.RejectedQuantile`,
        and `conditional`: whether the promise holds among the rejected images. With thresholds of
        the classes it does not, and the quantile is the marginal one. A quantile of None puts all
        classes in a set; a `below` of None is infinite. `left_out`: number of rejected calibration
        images that are not used for it; None without a promise among them. `test`: the fields of
        `selective.SetMetrics` of the marginal sets on `all` images, on the `accepted` ones and on
        the rejected ones, `rejected_marginal`; and of the sets that are shown, on the `rejected`
        ones.
    """
    alpha = evidence.settings.get("set_alpha", ALPHA)
    method = evidence.settings.get("set_method", METHOD)
    rule = SetRule(method)
    if method == "raps":
        dev = evidence.dev
        rule = SetRule(
            method, *selective.fit_raps(dev.logits, dev.labels, alpha=alpha, abstention=True)
        )
    labels = evidence.calibration.labels
    true_class_scores = selective.true_scores(
        rule.scores(_class_logits(evidence.calibration)), labels
    )
    rule = rule._replace(quantile=selective.set_quantile(true_class_scores, alpha=alpha))
    marginal = {
        "quantile": atomic_io.finite_or_none(rule.quantile),
        "examples": true_class_scores.size,
    }
    rejected = _rejected(evidence, true_class_scores, alpha)
    values = {
        "alpha": alpha,
        "method": method,
        "k_reg": rule.k_reg,
        "penalty": rule.penalty,
        "marginal": marginal,
        "rejected": rejected or {**marginal, "below": None, "conditional": False},
        "left_out": _left_out(evidence, rejected),
    }
    return {**values, "test": _on_test(rule, set_rule(values), evidence)}


def _rejected(evidence: Evidence, true_class_scores: Floats, alpha: float) -> dict[str, Any] | None:
    """Returns the quantile of the rejected images; None if none is known to hold.

    Thresholds of the classes come from tests that are not independent of each other, by which
    images below the threshold of one class depend on those of the others.
    """
    if evidence.class_thresholds is not None:
        return None
    confidence, correct = evidence.sample("calibration")
    if evidence.source not in CHOSEN_ON_CALIBRATION:
        rule = selective.rejected_quantile(
            true_class_scores, confidence, threshold=evidence.threshold, alpha=alpha
        )
    elif levels := _levels(evidence, confidence, correct):
        level, *others = levels
        rule = selective.certified_rejected_quantile(
            *(true_class_scores, confidence, correct),
            risk=evidence.risk,
            delta=level,
            alpha=alpha,
            also_tested=others,
        )
    else:
        return None
    return {
        "quantile": atomic_io.finite_or_none(rule.quantile),
        "below": atomic_io.finite_or_none(rule.below),
        "examples": rule.examples,
        "conditional": True,
    }


def _left_out(evidence: Evidence, rejected: Mapping[str, Any] | None) -> int | None:
    if rejected is None:
        return None
    return int(np.sum(~evidence.accepted("calibration"))) - int(rejected["examples"])


def _levels(
    evidence: Evidence, confidence: np.ndarray, correct: np.ndarray
) -> tuple[float, ...] | None:
    """Returns the level of the threshold, and another one at which calibration was looked at.

    With a requested coverage the threshold is first certified at a share of delta, and at delta if
    it accepts too few images. None if it comes from another test, or if two have certified nothing.
    """

    def certifies(level: float) -> bool:
        certificate = selective.learn_then_test(
            confidence, correct, risk=evidence.risk, delta=level
        )
        return certificate.threshold == evidence.threshold

    delta = evidence.delta
    if not evidence.settings.get("coverage"):
        return (delta,) if certifies(delta) else None
    if math.isinf(evidence.threshold):
        return None
    share = joint.shares(delta, is_requested=True).risk
    if certifies(share):
        return (share,)
    return (delta, share) if certifies(delta) else None


def _on_test(marginal: SetRule, shown: SetRule, evidence: Evidence) -> dict[str, Any]:
    logits, accepted = _class_logits(evidence.test), evidence.accepted("test")
    for_all = marginal.sets(logits)
    for_rejected = shown.sets(logits, evidence.sample("test")[0])
    return {
        "all": _measure(for_all, evidence.test, np.ones_like(accepted)),
        "accepted": _measure(for_all, evidence.test, accepted),
        "rejected_marginal": _measure(for_all, evidence.test, ~accepted),
        "rejected": _measure(for_rejected, evidence.test, ~accepted),
    }


def _class_logits(outputs: Predictions) -> np.ndarray:
    return outputs.logits[:, :-1]


def _measure(sets: np.ndarray, test: Predictions, rows: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of some rows, with lists for arrays and None for NaN."""
    metrics: SetMetrics = selective.set_metrics(sets[rows], test.labels[rows])
    return {
        name: [atomic_io.finite_or_none(item) for item in value.tolist()]
        if isinstance(value, np.ndarray)
        else atomic_io.finite_or_none(value)
        for name, value in metrics._asdict().items()
    }


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns how often the set contains the right class, and how large the sets are."""
    sure = words.exact_percent(1 - values["alpha"])
    sentences = (*_promised(values, sure), *_measured(values["test"]["rejected"]))
    return Statement(TITLE, sentences, "Holds on average over calibration images")


def _promised(values: Mapping[str, Any], sure: str) -> Sequence[str]:
    rule = values["rejected"]
    if rule["quantile"] is None:
        needed = math.ceil(round(1 / values["alpha"] - 1, 9))
        return (
            "When the model abstains, it names all classes: of the calibration images, only "
            f"{words.count(rule['examples'], 'was', 'were')} usable for smaller sets, and "
            f"{needed:,} are needed.",
        )
    if not rule["conditional"]:
        return (
            "When the model abstains, it gives a prediction set, a set of possible classes. If it "
            "gave one for every image, the set would contain the right class for on average at "
            f"least {sure} of all new images. Among the images on which it abstains it may be "
            "fewer.",
        )
    return (
        "When the model abstains, it gives a prediction set, a set of possible classes. On "
        f"average, the set contains the right class for at least {sure} of the new images on which "
        "it abstains.",
        "So there is no certainty such as 95 %: with other calibration images the share would be "
        f"somewhat higher or lower. It is based on {_basis(values)}.",
    )


def _basis(values: Mapping[str, Any]) -> str:
    """Returns how many calibration images a promise among the rejected ones is based on."""
    used, left_out = values["rejected"]["examples"], values.get("left_out")
    if not left_out:
        return words.count(used, "calibration image")
    return (
        f"{used:,} of the {used + left_out:,} calibration images on which it abstains; the rest "
        "took part in the choice of the threshold"
    )


def _measured(test: Mapping[str, Any]) -> Sequence[str]:
    if not test["examples"]:
        return ("The model abstains on no test image.",)
    return (
        f"The model abstains on {words.count(test['examples'], 'test image')}: the set "
        f"contains the right class for {words.percent(test['coverage'])} of them, and a set has "
        f"{test['mean_size']:.1f} of {len(test['class_coverage']):,} classes on average "
        f"({_sizes(test)}).",
    )


def _sizes(test: Mapping[str, Any]) -> str:
    """Returns for which shares of images the set has one class, two, and so on."""
    shares = [count / test["examples"] for count in test["sizes"][1:]]
    parts = [
        f"{words.count(size, 'class', 'classes')}: {words.percent(share)}"
        for size, share in enumerate(shares[:SHOWN_SIZES], 1)
        if share
    ]
    more = sum(shares[SHOWN_SIZES:])
    return ", ".join([*parts, *([f"more: {words.percent(more)}"] if more else [])])


PROMISE = Promise(compute, statement)
