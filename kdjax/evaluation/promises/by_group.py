"""The promise on the errors among accepted images of one group, such as a device, for every group.

Groups come from the array `group` of the predictions files, see `predictions.save`.
"""

from collections.abc import Mapping
from typing import Any

from kdjax.evaluation.promises import groupwise, words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement, Table

TITLE = "Errors within each group"
COLUMNS = (
    "group",
    "test images",
    "accepted by the model",
    "of these wrong",
    "accepted with the group's own threshold",
    "of these wrong",
)


def compute(evidence: Evidence) -> dict[str, Any] | None:
    """Returns a threshold for each group, and what these and the model's threshold do on test.

    Returns:
        See `groupwise.certify`; `names` are those of the groups, sorted; `point`: the counts on
        test at the threshold of the model. None if the images have no groups, or if no group of
        calibration is in test too: then they are such as patients, whose images stay in one split,
        and not such as devices.
    """
    groups = evidence.extras.groups
    if groups.get("calibration") is None or groups.get("test") is None:
        return None
    names = sorted(set(groups["calibration"].tolist()) - {""})
    if not set(names) & set(groups["test"].tolist()):
        return None

    def sample(split: str) -> groupwise.GroupedSample:
        grouped, (confidence, correct) = groups[split] != "", evidence.sample(split)
        return confidence[grouped], correct[grouped], groups[split][grouped]

    values = groupwise.certify(
        sample("calibration"), sample("test"), names, risk=evidence.risk, delta=evidence.delta
    )
    accepted, correct = evidence.accepted("test"), evidence.sample("test")[1]
    point = groupwise.group_counts(accepted, correct, groups["test"], names)
    return {**values, "names": names, "point": point}


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns for which groups errors can be bounded, with what happens in each group on test."""
    names, risk = values["names"], words.exact_percent(values["risk"])
    pairs = zip(names, values["threshold"], strict=True)
    certified = [name for name, threshold in pairs if threshold is not None]
    which = f"for {groupwise.all_or_some(certified, names, 'groups')}"
    scope = words.together(values["delta"], "the statements for all groups")
    without, table = groupwise.without(values, names, "groups"), _table(values)
    if not certified:
        sentence = (
            f"For none of the {len(names):,} groups could it be shown that at most {risk} of the "
            "images that are accepted in it are wrong."
        )
        return Statement(TITLE, (sentence, *without), scope, table)
    sentences = (
        f"With a threshold for each group, at most {risk} of the new images that are accepted in a "
        f"group are wrong, {which}.",
        *without,
        "An exported model does not know the group: whoever uses it has to compare the score with "
        "the threshold of the group, which results.json has.",
    )
    return Statement(TITLE, sentences, scope, table)


def _table(values: Mapping[str, Any]) -> Table:
    point, test = values["point"], values["test"]
    rows = [
        (name, f"{point['examples'][i]:,}", *_cells(point, i), *_cells(test, i))
        for i, name in enumerate(values["names"])
    ]
    return Table("Test images by group", COLUMNS, tuple(rows))


def _cells(split: Mapping[str, list[int]], index: int) -> tuple[str, str]:
    """Returns the accepted images and the wrong ones among them, with their shares."""
    examples, accepted, errors = (split[name][index] for name in ("examples", "accepted", "errors"))
    return _share(accepted, examples), _share(errors, accepted)


def _share(part: int, total: int) -> str:
    return f"{part:,} ({words.percent(part / total)})" if total else "none"


PROMISE = Promise(compute, statement)
