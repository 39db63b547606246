"""The conclusion of a report in sentences: guarantee, test results and assumptions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax import selective
from kdjax.evaluation import certification
from kdjax.evaluation.promises.words import listed
from kdjax.report.page import formatting
from kdjax.report.page.runs import Run
from kdjax.selective import binomial

ASSUMPTIONS = (
    "New images come from the same distribution as the calibration images, independently of each "
    "other. The certificate does not hold for another camera, other classes or worse lighting.",
    "The calibration split was used for nothing else: not for training, and not to choose a "
    "checkpoint, a score or a parameter.",
    "The true selective risk does not fall as the threshold is lowered: accepting more predictions "
    "does not make the accepted ones more accurate.",
    certification.CHOICE,
)
# The terms with their explanation, where a page first uses them.
COVERAGE = "coverage (share of accepted images)"
SELECTIVE_RISK = "selective risk (error among accepted)"


class Conclusion(NamedTuple):
    """The sentences at the top of a page.

    Attributes:
        lead: one or two sentences.
        evidence: items of one or more sentences.
        assumptions: of the certificate; empty without one.
    """

    lead: str
    evidence: list[str]
    assumptions: tuple[str, ...]


def conclude(run: Run) -> Conclusion:
    """Returns what is guaranteed for a run, and what was measured on test."""
    point = run.operating_point
    if point.guarantee is None:
        lead, *evidence = _without_calibration(run)
    elif not point.certified:
        lead, *evidence = _uncertified(point.guarantee)
    else:
        lead, *evidence = _certified(run, point.guarantee)
    assumptions = ASSUMPTIONS if point.certified else ()
    seen_note = certification.seen_images_note(run.results)
    evidence += [seen_note] if seen_note else []
    evidence += [f"The student {run.results['collapse']}."] if "collapse" in run.results else []
    return Conclusion(lead, [*evidence, _accuracies(run)], assumptions)


def _certified(run: Run, guarantee: Mapping[str, Any]) -> list[str]:
    accepted, risk, delta = run.accepted, guarantee["risk"], guarantee["delta"]
    acceptance = (
        f"accepts all test images: its coverage is 100{formatting.SPACE}%"
        if accepted.all()
        else f"accepts {formatting.percent(accepted.mean())} of the test images (its coverage) and "
        "abstains on the rest"
    )
    point, passes, images = run.operating_point, "", f"{guarantee['examples']:,} images"
    if point.gate and point.gate.stops:
        total = run.results["calibration"]["examples"]
        passes = f", and its image passes the gate ({point.gate.name})"
        images = f"{guarantee['examples']:,} of {total:,} images, those that pass the gate,"
    return [
        f"This model {acceptance}. On new images its {SELECTIVE_RISK} is at most "
        f"{formatting.exact_percent(risk)}, with a probability of at least "
        f"{formatting.exact_percent(1 - delta)}.",
        "A prediction is accepted if its confidence score, the "
        f"{selective.display_name(run.best_score)}, is at least "
        f"{selective.shown_threshold(run.best_score, point.threshold)}{passes}. Learn then Test "
        f"certified this threshold on the calibration split, {images} "
        f"that are used for nothing else; its coverage there is "
        f"{formatting.percent(point.certificate['coverage'])}. The certificate fails for at most "
        f"{formatting.exact_percent(delta)} of such splits.",
        _on_test(int(accepted.sum()), int((accepted & ~run.correct).sum()), len(accepted), risk),
        *_coverage_requested(guarantee),
        *_among_students(guarantee),
    ]


def _coverage_requested(guarantee: Mapping[str, Any]) -> list[str]:
    """Returns whether a requested coverage is certified too; empty if none was requested."""
    if "joint" not in guarantee:
        return []
    requested = formatting.exact_percent(guarantee["coverage"])
    if guarantee["joint"]["both"]:
        return [
            f"The requested coverage of at least {requested} is certified together with the risk: "
            "both hold on new images with this probability."
        ]
    return [
        f"The requested coverage of at least {requested} could not be certified together with the "
        'risk; what is possible is said under "What is promised".'
    ]


def _among_students(guarantee: Mapping[str, Any]) -> list[str]:
    """Returns what is guaranteed if the run is chosen among the students of its workdir."""
    runs = guarantee.get("runs", 1)
    if runs == 1:
        return []
    certificate = guarantee["all_runs"]
    coverage = (
        "no threshold is certified"
        if certificate["threshold"] is None
        else f"the coverage is {formatting.percent(certificate['coverage'])}"
    )
    return [
        f"This is one of {runs} students. If it is chosen among them after a look at their "
        "certificates or test results, the certificates of all have to hold together: with "
        f"--delta={certificate['delta']:.3g} {coverage} on the calibration split."
    ]


def _on_test(accepted: int, errors: int, total: int, risk: float) -> str:
    if not accepted:
        return f"It accepted none of the {total:,} test images."
    error, (low, high) = errors / accepted, binomial.proportion_interval(errors, accepted)
    if error <= risk:
        comparison = "within the certified risk"
    elif low <= risk:
        comparison = "above the certified risk, but not significantly"
    else:
        comparison = (
            "significantly above the certified risk. The test images may not come from the "
            "distribution of the calibration images: do not rely on the certificate"
        )
    return (
        f"On the test split it accepted {accepted:,} of {total:,} images with a selective risk of "
        f"{formatting.percent(error)} (95{formatting.SPACE}% interval "
        f"{formatting.interval(low, high)}): {comparison}."
    )


def _uncertified(guarantee: Mapping[str, Any]) -> list[str]:
    risk, delta, examples = guarantee["risk"], guarantee["delta"], guarantee["examples"]
    needed = certification.least_examples(risk, delta)
    too_few = (
        f"The calibration split is too small, with {examples:,} images: even without an error at "
        f"least {needed:,} are needed."
    )
    return [
        f"No threshold could be certified to have a {SELECTIVE_RISK} of at most "
        f"{formatting.exact_percent(risk)} with a probability of at least "
        f"{formatting.exact_percent(1 - delta)}. The model has no guarantee and abstains on every "
        "image.",
        *([too_few] if examples < needed else []),
        _smallest_certified_risk(guarantee),
    ]


def _smallest_certified_risk(guarantee: Mapping[str, Any]) -> str:
    entries = guarantee["certificates"]
    certified = [entry for entry in entries if entry["learn_then_test"]["threshold"] is not None]
    if not certified:
        risks = listed(formatting.exact_percent(e["risk"]) for e in entries)
        return f"None of these risks could be certified: {risks}."
    smallest = min(certified, key=lambda entry: entry["risk"])
    certificate = smallest["learn_then_test"]
    risk = formatting.exact_percent(smallest["risk"])
    return (
        f"The smallest risk that could be certified is {risk}. "
        f"Its threshold has a {COVERAGE} of {formatting.percent(certificate['test_coverage'])} on "
        f"test, and a selective risk of {formatting.percent(certificate['test_error'])} there. "
        f"Evaluate the run with --risk={smallest['risk']:g} to use this threshold; as this risk is "
        "then chosen after the calibration split was seen, with a smaller --delta, see the "
        "certified thresholds."
    )


def _without_calibration(run: Run) -> list[str]:
    values = run.results["scores"][run.best_score]["thresholds"][certification.FALLBACK_COVERAGE]
    return [
        "No risk is guaranteed for this model: it was trained without a calibration split, which "
        "is needed to certify a threshold.",
        f"The threshold with {certification.FALLBACK_COVERAGE}{formatting.SPACE}% coverage on the "
        f"development split has a {COVERAGE} of {formatting.percent(values['test_coverage'])} on "
        f"test, and a {SELECTIVE_RISK} of {formatting.percent(values['test_error'])} there. "
        "This is a measurement, not a guarantee.",
    ]


def _accuracies(run: Run) -> str:
    student = f"Without abstention, its accuracy on test is {_accuracy(run.results['test'])}"
    if "test" not in run.results.get("teacher", {}):
        return f"{student}."
    return f"{student}; that of its teacher is {_accuracy(run.results['teacher']['test'])}."


def _accuracy(split: Mapping[str, Any]) -> str:
    hits = round(split["accuracy"] * split["examples"])
    interval = formatting.interval(*binomial.proportion_interval(hits, split["examples"]))
    return f"{formatting.percent(split['accuracy'])} (95{formatting.SPACE}% interval {interval})"
