"""The config of a workdir of an earlier version, completed to the fields of this one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from kdjax import field_types
from kdjax.config_fields import rename_legacy_fields
from kdjax.data import deployment_views
from kdjax.errors import InputError
from kdjax.models.common import LARGE_STEM_SIZE
from kdjax.training.spec import STUDENT, TEACHER


def complete(
    fields: Mapping[str, Any], defaults: Mapping[str, Any], image_shape: Sequence[int]
) -> dict[str, Any]:
    """Returns a stored config with all fields of this version, under their present names.

    Args:
        fields: as read from `config.json`.
        defaults: of the fields of its stage.
        image_shape: height, width and channels.

    Raises:
        InputError: for a value that its field cannot have.
    """
    renamed = _with_views(_with_stems(rename_legacy_fields(fields), image_shape))
    completed = with_defaults(renamed, defaults)
    _check_types(completed, defaults)
    return completed


def _with_stems(fields: Mapping[str, Any], image_shape: Sequence[int]) -> dict[str, Any]:
    """Returns a stored config with the stems of a version that had only small ones."""
    stem = "small" if min(image_shape[:2]) >= LARGE_STEM_SIZE else "auto"
    stages = {
        name: fields[name] for name in (TEACHER, STUDENT) if isinstance(fields.get(name), Mapping)
    }
    return {**fields, **{name: {"stem": stem, **stage} for name, stage in stages.items()}}


def _with_views(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config with the deployment views of a version that had none."""
    selective = fields.get("selective")
    if not isinstance(selective, Mapping):  # of a teacher, which has the views of its student
        return dict(fields)
    return {**fields, "selective": {"views": deployment_views.NONE, **selective}}


def without_default_views(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with the views `none` if it has those that `auto` gives.

    So the command of a run of a version without views continues it.
    """
    selective = fields.get("selective")
    if selective is None:
        return dict(fields)
    automatic = deployment_views.resolve(deployment_views.AUTO, flip=fields["data"]["flip"])
    if selective["views"] != automatic:
        return dict(fields)
    return {**fields, "selective": {**selective, "views": deployment_views.NONE}}


def with_defaults(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a nested config with the defaults of the fields that it does not have."""
    filled = _fill(fields, as_json(defaults))
    if "order_seed" not in fields:
        filled["order_seed"] = filled["seed"]  # as `config.resolve` does
    return filled


def _fill(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**defaults, **fields}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(filled[name], Mapping):
            filled[name] = _fill(filled[name], value)
    return filled


def _check_types(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    values = flatten_dict(fields, sep=".")
    for name, default in flatten_dict(defaults, sep=".").items():
        if name not in values:  # a value stands in the place of a group
            raise InputError(f"{name} is missing")
        field_types.convert(name, values[name], default)


def as_json(value: Any) -> Any:
    """Returns a value as it is read from a JSON file: lists for tuples."""
    return json.loads(json.dumps(value))
