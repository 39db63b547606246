"""Several students of one teacher: the name, workdir and config of each."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_fields
from kdjax.errors import InputError

# The students see the same batches and the same teacher's logits: only these fields may differ,
# but not the shared ones.
_FREE_PREFIXES = ("objective.", "selective.", "student.", "seed", "best_metric")
_SHARED_FIELDS = ("student.epochs", "student.batch_size")
# Longest name of a folder in bytes, on Linux and macOS.
_MAX_NAME_BYTES = 255


def student_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the workdir of the student of this name, within the workdir of the run."""
    return folder / "students" / name


def expand(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the resolved config of each of `config.students`, by the student's name.

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
    for changes in config.students:
        name = ",".join(map(_label, changes, changes.values()))
        if not name:
            raise InputError("students: an entry without fields; each must change at least one")
        if (size := len(os.fsencode(name))) > _MAX_NAME_BYTES:
            raise InputError(
                f"students: the folder name {name!r} would have {size} bytes, at most "
                f"{_MAX_NAME_BYTES} are possible: change fewer fields in it"
            )
        if name in expanded:
            raise InputError(f"students: {dict(changes)} is given twice")
        expanded[name] = _student_config(config, changes)
    return expanded


def _label(field: str, value: Any) -> str:
    """Returns a change as part of the name of a folder: of a path only the last component."""
    return f"{field.split('.')[-1]}={str(value).rpartition('/')[-1]}"


def _student_config(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    changed = ConfigDict({**config.to_dict(), "students": ()}, type_safe=False)
    allowed = [
        field
        for field in config_fields.field_names(changed)
        if field.startswith(_FREE_PREFIXES) and field not in _SHARED_FIELDS
    ]
    for field, value in changes.items():
        if field not in allowed:
            raise config_fields.unknown_field_error("field of a student", field, allowed)
        changed.update_from_flattened_dict({field: value})
    default = configs.default_learning_rate(config.student.model)
    if "student.learning_rate" not in changes and changed.student.learning_rate == default:
        changed.student.learning_rate = 0.0  # resolves to the default of the student's own model
    return configs.resolve(changed)
