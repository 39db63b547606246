"""Test results of networks with and without abstention: counts, table cells and a sentence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax.evaluation.certification import requested_certificate

Results = Mapping[str, Any]


class Outcome(NamedTuple):
    """The test results of a network, with and without abstention.

    Attributes:
        examples: number of test images.
        errors: how many of them are misclassified.
        accepted: how many are accepted at the certified threshold; 0 without one.
        accepted_errors: how many of the accepted ones are misclassified.
    """

    examples: int
    errors: int
    accepted: int
    accepted_errors: int


def outcome(results: Results) -> Outcome:
    """Returns the counts of a network from the shares in its results."""
    test, certificate = results["test"], requested_certificate(results["guarantee"])
    examples = test["examples"]
    errors = round((1 - test["accuracy"]) * examples)
    if certificate["threshold"] is None:
        return Outcome(examples, errors, 0, 0)
    accepted = round(certificate["test_coverage"] * examples)
    return Outcome(examples, errors, accepted, round((certificate["test_error"] or 0) * accepted))


def networks(results_by_student: Mapping[str, Results]) -> dict[str, Results]:
    """Returns the results of the teacher, if a student has one, and of the students, by name."""
    teachers = [results.get("teacher", {}) for results in results_by_student.values()]
    evaluated = [teacher for teacher in teachers if "guarantee" in teacher]
    return {**({"teacher": evaluated[0]} if evaluated else {}), **results_by_student}


def cells(results: Results) -> tuple[str, str, str]:
    """Returns the errors on all images, the accepted images, and the errors among these."""
    examples, errors, accepted, accepted_errors = outcome(results)
    without = with_share(errors, examples)
    if not accepted:
        return without, "none", "-"
    return without, with_share(accepted, examples), with_share(accepted_errors, accepted)


def sentence(name: str, results: Results) -> str:
    """Returns what abstention changes for a network on test, in plain words.

    Args:
        name: of the network.
        results: content of its `results.json`.
    """
    examples, errors, accepted, accepted_errors = outcome(results)
    without = f"{name}: if it must answer on all {examples:,} test images, {_wrong(errors)}"
    risk = f"{100 * results['guarantee']['risk']:g} %"
    if not accepted:
        return f"{without}; no threshold could be certified for a risk of {risk}."
    return (
        f"{without}; if it may abstain, it abstains on {examples - accepted:,}, and of the "
        f"{accepted:,} that it accepts {_wrong(accepted_errors)} (certified risk {risk})."
    )


def _wrong(errors: int) -> str:
    return f"{errors:,} {'is' if errors == 1 else 'are'} wrong"


def best(results_by_student: Mapping[str, Results], split: str) -> str:
    """Returns the student with the lowest AURC on a split, `dev` or `test`, with its own score."""
    key = {"dev": "dev_aurc", "test": "aurc"}[split]

    def area(name: str) -> float:
        results = results_by_student[name]
        value: float = results["scores"][results["best_score"]][key]
        return value

    return min(results_by_student, key=area)


def with_share(count: int, total: int) -> str:
    """Returns a count with its share of a total, such as `45 (12.5 %)`."""
    return f"{count:,} ({100 * count / total:.1f} %)"
