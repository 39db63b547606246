"""What is known about a teacher, in sentences: its errors on train, adjustment, disagreement."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

TITLE = "Errors of the teachers of the folds"
COLUMNS = ("fold", "images", "out-of-fold error %", "in-sample error %")


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Returns how often the teacher is wrong on train, what is adjusted, and how teachers differ.

    Args:
        results: content of `results.json`; empty sentences are left out, such as all of them for a
            run without a teacher.
    """
    errors = results.get("correction")
    if errors is None:
        return []
    parts = (
        errors_sentence(results),
        adjusted_sentence(errors),
        disagreement_sentence(results.get("disagreement")),
    )
    return [part for part in parts if part]


def of_students(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns how often the teacher of several students is wrong on train; at most one sentence.

    Args:
        results: content of `results.json` of each student.
    """
    with_teacher = (values for values in results if "correction" in values)
    return [errors_sentence(values) for values in itertools.islice(with_teacher, 1)]


def fold_rows(errors: Mapping[str, Any]) -> list[list[str]]:
    """Returns a row of `COLUMNS` for each fold; none for a teacher without folds.

    Args:
        errors: `correction` of `results.json`.
    """
    return [
        [
            str(number),
            f"{fold['examples']:,}",
            f"{100 * fold['out_of_fold_error']:.2f}",
            f"{100 * fold['in_sample_error']:.2f}",
        ]
        for number, fold in enumerate(errors.get("folds", ()))
    ]


def errors_sentence(results: Mapping[str, Any]) -> str:
    """Returns how often the teacher is wrong on train, also where it was not trained.

    Args:
        results: content of `results.json`, with `correction`.
    """
    errors = results["correction"]
    wrong = _count(errors["wrong"], errors["examples"])
    if "folds" not in errors:
        # kdjax does not know on which images another teacher was trained, nor what is in a mean.
        is_known = not {"external_teacher", "disagreement"} & results.keys()
        seen = ", on which it was trained" if is_known else ""
        return f"The teacher misclassifies {wrong} of the training images{seen}."
    return (
        f"Out of fold, {wrong} of the training images are misclassified: each by the one of "
        f"{len(errors['folds'])} teachers that has not seen it. In sample, on the images with "
        f"which it was trained, a teacher errs on {_percent(errors['in_sample_error'])}."
    )


def adjusted_sentence(errors: Mapping[str, Any]) -> str:
    """Returns how many distributions are adjusted; empty for a method without adjustment.

    Args:
        errors: `correction` of `results.json`.
    """
    if errors.get("adjusted") is None:  # also in results of earlier versions
        return ""
    changed = _count(errors["adjusted"], errors["examples"])
    return f"The adjustment changes the teacher's distribution on {changed} of the training images."


def disagreement_sentence(measured: Mapping[str, Any] | None) -> str:
    """Returns how much several teachers disagree; empty for one teacher.

    Args:
        measured: `disagreement` of `results.json`.
    """
    if measured is None:
        return ""
    means = " and ".join(f"{measured[split]['mean']:.4f} on {split}" for split in ("dev", "test"))
    aurocs = " and ".join(
        f"{_percent(measured['test'][f'{name}_auroc'])} ({name})" for name in ("teacher", "student")
    )
    return (
        f"Disagreement of the {measured['members']} teachers (mutual information, in nats): "
        f"{means}; AUROC by which it separates wrong predictions on test: {aurocs}."
    )


def _count(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({_percent(part / whole)})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
