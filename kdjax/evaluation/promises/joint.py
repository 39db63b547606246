"""The promise on errors and coverage together."""

from collections.abc import Mapping
from typing import Any

from kdjax.evaluation import joint
from kdjax.evaluation.certification import CERTIFICATE
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement

TITLE = "Errors and share of accepted images together"


def compute(evidence: Evidence) -> dict[str, Any]:
    """Returns the pair that was requested, or those that are possible.

    Returns:
        Of `joint.measure`; `used`, whether the model uses the threshold of `at_risk`; `certified`,
        whether it uses a certified threshold at all.
    """
    values = joint.measure(
        evidence.sample("calibration"),
        evidence.sample("test"),
        risk=evidence.risk,
        coverage=evidence.settings.get("coverage", 0.0),
        delta=evidence.delta,
        totals=(evidence.images("calibration"), evidence.images("test")),
    )
    pair = values["at_risk"]
    used = evidence.class_thresholds is None and pair and pair["threshold"] == evidence.threshold
    return {**values, "used": bool(used), "certified": evidence.source == CERTIFICATE}


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns which risk and coverage hold together."""
    risk = words.exact_percent(values["risk"])
    nothing = values["at_risk"] is None or values["at_risk"]["coverage"] == 0
    if nothing and values["at_coverage"] is None:
        sentence = (
            f"No share of accepted images can be promised together with at most {risk} errors "
            f"among them: the {values['examples']:,} calibration images do not suffice for two "
            "promises at once."
        )
        return Statement(TITLE, (sentence,), words.alone(values["delta"]))
    if not values["coverage"]:
        return _largest_coverage(values, risk)
    return _both(values, risk) if values["both"] else _not_both(values, risk)


def _largest_coverage(values: Mapping[str, Any], risk: str) -> Statement:
    pair = values["at_risk"]
    least = words.percent_down(pair["coverage"])
    sentences = (
        f"No least share of accepted images was requested. Possible is: at most {risk} of the "
        f"accepted images wrong, and at least {least} of all new images accepted, both at once.",
        f"{_other_threshold(values)} With it, {words.share(pair['test'])} test images were "
        f"accepted. {words.errors(pair['test'])}",
        "If you need a certain share, request it before you look at these numbers, such as by "
        "kdjax evaluate --least_coverage=0.8: the threshold in use is then one for both.",
    )
    return Statement(TITLE, sentences, words.together(values["delta"], "both parts"))


def _other_threshold(values: Mapping[str, Any]) -> str:
    """Returns whether the pair needs another threshold than the one that the model uses."""
    if values["used"]:
        return "The threshold in use is one for both."
    if not values["certified"]:
        return "That takes another threshold than the one in use."
    return (
        "That takes a slightly stricter threshold than the one in use, because two promises have "
        "to hold."
    )


def _both(values: Mapping[str, Any], risk: str) -> Statement:
    pair = values["at_risk"]
    sentences = (
        f"Both requests can be met: at most {risk} of the accepted images are wrong, and at least "
        f"{words.exact_percent(values['coverage'])} of all new images are accepted. "
        f"{_other_threshold(values)}{_even_more(values)}",
        f"With it, {words.share(pair['test'])} test images were accepted. "
        f"{words.errors(pair['test'])}",
    )
    return Statement(TITLE, sentences, words.together(values["delta"], "both parts"))


def _even_more(values: Mapping[str, Any]) -> str:
    """Returns the coverage that can be promised beyond the requested one; empty without any."""
    least = words.percent_down(values["at_risk"]["coverage"])
    if values["at_risk"]["coverage"] <= values["coverage"]:
        return ""
    return f" It is even one for at least {least} of all new images."


def _not_both(values: Mapping[str, Any], risk: str) -> Statement:
    least = words.exact_percent(values["coverage"])
    first = (
        f"Not both: at most {risk} errors among the accepted images and at least {least} of all "
        "new images accepted cannot be promised together."
    )
    if values["certified"]:
        first += " The threshold in use keeps to the errors."
    possible = []
    if (pair := values["at_risk"]) and pair["coverage"]:
        share = words.percent_down(pair["coverage"])
        possible.append(f"at most {risk} errors with at least {share} accepted")
    if pair := values["at_coverage"]:
        errors = words.percent_up(pair["risk"])
        possible.append(f"at most {errors} errors with at least {least} accepted")
    second = f"Possible is: {', or '.join(possible)}."
    if len(possible) > 1:
        second += " Both of these pairs hold, so that either may be chosen."
    return Statement(TITLE, (first, second), words.together(values["delta"], "all numbers"))


PROMISE = Promise(compute, statement)
