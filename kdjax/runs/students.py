"""Several students of one teacher, listed or of a sweep: the name, workdir and config of each."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_fields, config_sweep
from kdjax.errors import InputError

# The students see the same batches and the same teacher's logits: only these fields may differ,
# but not the shared ones.
_FREE_PREFIXES = ("objective.", "selective.", "student.", "seed", "best_metric")
_SHARED_FIELDS = ("student.epochs", "student.batch_size")
# The fields of several students, as one of them has them.
_ONE_STUDENT: Mapping[str, Any] = {
    "students": (),
    "sweep": "",
    "sweep_metric": "aurc",
    "sweep_seeds": "",
}
# Longest name of a folder in bytes, on Linux and macOS.
_MAX_NAME_BYTES = 255


def student_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the workdir of the student of this name, within the workdir of the run."""
    return folder / "students" / name


def has_several(config: ConfigDict) -> bool:
    """Returns whether a config has several students, each with a workdir of its own."""
    return bool(config.students or config.sweep)


def changes_of(config: ConfigDict) -> list[dict[str, Any]]:
    """Returns the changed fields of each of `config.students`, or of each setting of the sweep."""
    if config.sweep:
        return config_sweep.settings(config.sweep)
    return list(map(dict, config.students))


def expand(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the resolved config of each student, by its name; see `changes_of`.

    The name lists the fields that the student changes, such as `method=kd,seed=1`. Its config is
    the one with which the same student would be trained in a run without the others, with the
    same batches.

    Args:
        config: resolved.

    Raises:
        InputError: for an unknown or shared field, if two students are equal, or if the name of one
            is too long for a folder.
    """
    expanded: dict[str, ConfigDict] = {}
    given: dict[str, Mapping[str, Any]] = {}
    kind = "sweep" if config.sweep else "students"
    for changes in changes_of(config):
        name = ",".join(map(_label, changes, changes.values()))
        if not name:
            raise InputError("students: an entry without fields; each must change at least one")
        if (size := len(os.fsencode(name))) > _MAX_NAME_BYTES:
            raise InputError(
                f"{kind}: the folder name {name!r} would have {size} bytes, at most "
                f"{_MAX_NAME_BYTES} are possible: change fewer fields in it"
            )
        if given.setdefault(name, changes) != changes:
            raise InputError(
                f"{kind}: {given[name]} and {changes} would have the same folder, {name!r}"
            )
        if name in expanded:
            raise InputError(f"{kind}: {changes} is given twice")
        expanded[name] = _student_config(config, changes)
    return expanded


def _label(field: str, value: Any) -> str:
    """Returns a change as part of the name of a folder: of a path only the last component."""
    return f"{field.split('.')[-1]}={str(value).rpartition('/')[-1]}"


def _student_config(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    changed = ConfigDict({**config.to_dict(), **_ONE_STUDENT}, type_safe=False)
    allowed = [
        field
        for field in config_fields.field_names(changed)
        if field.startswith(_FREE_PREFIXES) and field not in _SHARED_FIELDS
    ]
    for field, value in changes.items():
        if field in config_fields.field_names(config):
            _check_may_differ(field, allowed)
        elif field not in allowed:
            raise config_fields.unknown_field_error("field of a student", field, allowed)
        changed.update_from_flattened_dict({field: value})
    default = configs.default_learning_rate(config.student.model, config.student.optimizer)
    if "student.learning_rate" not in changes and changed.student.learning_rate == default:
        changed.student.learning_rate = 0.0  # resolves to the default of the student's own model
    return configs.resolve(changed)


def _check_may_differ(field: str, allowed: Collection[str]) -> None:
    if field not in allowed:
        raise InputError(
            f"{field!r} is the same for all students of one teacher: they may differ in "
            f"objective.*, selective.*, student.* (without {' and '.join(_SHARED_FIELDS)}), seed "
            "and best_metric"
        )
