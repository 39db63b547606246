"""Names of config fields: suggestions, renamed fields, and the differences of two configs."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from kdjax.errors import InputError, are_similar

# Field names of earlier versions, as they occur in the config.json of existing workdirs.
RENAMED_FIELDS: Mapping[str, str] = {
    "tuned": "cpu_tuning",
    "objective.lambda": "objective.distill_weight",
    "teacher.norm_batches": "teacher.bn_batches",
    "student.norm_batches": "student.bn_batches",
}
# Common abbreviations and other names of fields, in lower case; used only for suggestions.
SYNONYMS: Mapping[str, str] = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "temp": "temperature",
    "t": "temperature",
    "alpha": "distill_weight",
    **{old.split(".")[-1]: new.split(".")[-1] for old, new in RENAMED_FIELDS.items()},
}
# Weight of the group (such as `student`) against the field when names are compared.
_GROUP_WEIGHT = 0.25


def field_names(config: Mapping[str, Any] | ConfigDict) -> list[str]:
    """Returns the dotted name of every field of a nested config."""
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return list(flatten_dict(nested, sep="."))


def nearest_field(name: str, known: Iterable[str]) -> str | None:
    """Returns the known field whose dotted name is most similar to `name`; None if none is.

    The last component counts most, after the replacement of `SYNONYMS`; the group decides between
    similar fields, so `student.lr` gives `student.learning_rate`.

    Args:
        name: dotted name of a field.
        known: dotted names of the valid fields.
    """
    group, _, field = name.rpartition(".")
    field = SYNONYMS.get(field.lower(), field)

    def similarity(candidate: str) -> float:
        candidate_group, _, candidate_field = candidate.rpartition(".")
        return _similarity(field, candidate_field) + _GROUP_WEIGHT * _similarity(
            group, candidate_group
        )

    similar = [each for each in sorted(known) if are_similar(field, each.rpartition(".")[-1])]
    return max(similar, key=similarity, default=None)


def _similarity(name: str, candidate: str) -> float:
    return difflib.SequenceMatcher(None, name, candidate).ratio()


def unknown_field_error(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a field that does not exist, with the nearest field.

    Args:
        kind: what the field belongs to, such as `"config field"`.
        name: the dotted name that was given.
        known: dotted names of the valid fields.
    """
    near = nearest_field(name, known)
    hint = f": did you mean {near!r}?" if near else "; --help lists the fields"
    return InputError(f"unknown {kind} {name!r}{hint}")


def rename_legacy_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config with the fields of earlier versions renamed to the current names."""
    fields = flatten_dict(config, keep_empty_nodes=True, sep=".")
    return unflatten_dict(
        {RENAMED_FIELDS.get(name, name): value for name, value in fields.items()}, sep="."
    )


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns a line `field: before -> after` for every field in which two nested configs differ.

    Args:
        before: a nested config.
        after: another one; a field that only one of them has is shown as None in the other.
        prefix: put before the field names.
    """
    lines = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines
