"""What a run's numbers say, in sentences: the promise, what the test set gave, what it rests on."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.report import guarantees
from kdjax.report.page import evidence, words
from kdjax.report.page.runs import Run
from kdjax.selective.certificates import LEAST_ACCEPTED

ASSUMPTIONS = (
    "New images come as the calibration images did: from the same source, each drawn independently "
    "of the others. Of another camera, other classes or worse light it says nothing.",
    "The calibration images were used for this alone: not for training, and not to choose a "
    "checkpoint, a score or a parameter.",
    "The more the model answers, the larger the share of wrong answers: a lower threshold never "
    "makes it smaller.",
    "The certainty is that of one error rate chosen beforehand, over draws of the calibration "
    "images; it does not hold for all lines of the table of certificates at once.",
)
TOLD = "90"  # coverage % on dev of the plain threshold that is told of where nothing is promised


class Verdict(NamedTuple):
    """What a page says before it shows anything.

    Attributes:
        lead: one or two sentences.
        evidence: a sentence or two each.
        assumptions: of the promise; none where nothing is promised.
    """

    lead: str
    evidence: list[str]
    assumptions: tuple[str, ...]


def verdict(run: Run) -> Verdict:
    """Returns what the run promises, and what the test set says of it."""
    if run.guarantee is None:
        lead, *found = _unpromised(run)
    elif run.threshold is None:
        lead, *found = _uncertified(run.guarantee)
    else:
        lead, *found = _certified(run, run.guarantee)
    promised = run.threshold is not None
    return Verdict(lead, [*found, _overall(run)], ASSUMPTIONS if promised else ())


def _certified(run: Run, guarantee: Mapping[str, Any]) -> list[str]:
    accepted, risk = run.accepted, guarantee["risk"]
    answers = (
        "answers on every image it was tested on"
        if accepted.all()
        else f"answers on {words.percent(accepted.mean())} of images like those of the test set "
        "and abstains on the rest"
    )
    operating = guarantees.operating(guarantee)
    score = words.score(run.best)
    return [
        f"This model {answers}. Among its answers at most {words.exactly(risk)} are wrong, with "
        f"{words.exactly(1 - guarantee['delta'])} certainty.",
        f"Learn then Test certified this on {guarantee['examples']:,} calibration images, of which "
        f"it answers {words.percent(operating['coverage'])}. It answers where its {score} is at "
        f"least {operating['threshold']:.6g}.",
        _on_test(int(accepted.sum()), int((accepted & ~run.right).sum()), len(accepted), risk),
    ]


def _on_test(answered: int, wrong: int, total: int, risk: float) -> str:
    if not answered:
        return f"Of the {total:,} test images it answered none."
    error, (low, high) = wrong / answered, evidence.proportion_interval(wrong, answered)
    if error <= risk:
        judged = "the promise held"
    elif low <= risk:
        judged = "more than promised, but no more than chance explains"
    else:
        judged = (
            "more than promised, and more than chance explains. The test images may not come as "
            "the calibration images did: do not rely on the promise"
        )
    return (
        f"On the test set it answered {answered:,} of {total:,} images, and "
        f"{words.percent(error)} of these answers were wrong "
        f"(95{words.SPACE}% interval {words.between(low, high)}): {judged}."
    )


def _uncertified(guarantee: Mapping[str, Any]) -> list[str]:
    risk, delta, examples = guarantee["risk"], guarantee["delta"], guarantee["examples"]
    certain = f"{words.exactly(1 - delta)} certainty"
    # (1 - risk)^k <= delta: the fewest answers that can certify, and then without an error.
    needed = max(LEAST_ACCEPTED, math.ceil(math.log(delta) / math.log1p(-risk)))
    too_few = (
        f"There are too few calibration images, {examples:,}: even without a single error it takes "
        f"{needed:,}."
    )
    return [
        f"No threshold could be certified to keep wrong answers at or below {words.exactly(risk)} "
        f"with {certain}. So this model promises nothing, and abstains on every image.",
        *([too_few] if examples < needed else []),
        _smaller_promise(guarantee),
    ]


def _smaller_promise(guarantee: Mapping[str, Any]) -> str:
    certificates = guarantee["certificates"]
    held = [one for one in certificates if one["learn_then_test"]["threshold"] is not None]
    if not held:
        tried = words.listed(words.exactly(one["risk"]) for one in certificates)
        return f"None of the error rates tried could be certified: {tried}."
    least = min(held, key=lambda one: one["risk"])
    found = least["learn_then_test"]
    return (
        f"The smallest error rate that could be certified is {words.exactly(least['risk'])}: the "
        f"model would then answer {words.percent(found['test_coverage'])} of the test images, "
        f"{words.percent(found['test_error'])} of these answers being wrong. Evaluated again with "
        f"--risk={least['risk']:g}, the run promises that."
    )


def _unpromised(run: Run) -> list[str]:
    found = run.results["scores"][run.best]["thresholds"][TOLD]
    return [
        "No error rate can be promised for this model: it was trained without a calibration "
        "split, on which a threshold could be certified.",
        f"The threshold that answers {TOLD}{words.SPACE}% of the development images answered "
        f"{words.percent(found['test_coverage'])} of the test images, and "
        f"{words.percent(found['test_error'])} of these answers were wrong. That is what was "
        "seen, and no promise.",
    ]


def _overall(run: Run) -> str:
    own = f"Made to answer every test image, it is right on {_accuracy(run.results['test'])}"
    if "teacher" not in run.results:
        return f"{own}."
    return f"{own}; its teacher, on {_accuracy(run.results['teacher']['test'])}."


def _accuracy(split: Mapping[str, Any]) -> str:
    right = round(split["accuracy"] * split["examples"])
    interval = words.between(*evidence.proportion_interval(right, split["examples"]))
    return f"{words.percent(split['accuracy'])} (95{words.SPACE}% interval {interval})"
