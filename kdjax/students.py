"""Many students of one teacher: what each of them is, and the config of each alone."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax.errors import InputError, nearest, unknown

# They see the same batches and ask the same teacher, so they may differ in nothing else.
_THEIRS = ("objective.", "selective.", "student.", "seed", "best_metric")
_SHARED = ("student.epochs", "student.batch_size")


def folder_of(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the workdir of one of the students in a workdir."""
    return workdir / "students" / name


def expand(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the resolved config of each of `config.students`, by its name.

    The name says in what a student differs, such as `method=kd,seed=1`. Its config is that of a
    run of it alone, in the same order of the same images.

    Args:
        config: resolved.

    Raises:
        InputError: on a field that students share or that there is not, or on two alike.
    """
    found: dict[str, ConfigDict] = {}
    for changes in config.students:
        name = ",".join(f"{field.split('.')[-1]}={value}" for field, value in changes.items())
        if name in found or not name:
            raise InputError(f"students: {dict(changes)} is there twice, or changes nothing")
        found[name] = _alone(config, changes)
    return found


def _alone(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    own = ConfigDict({**config.to_dict(), "students": ()})
    known = [
        field for field in configs.leaves(own) if field.startswith(_THEIRS) and field not in _SHARED
    ]
    for field, value in changes.items():
        if field not in known:
            raise unknown("field of a student", field, [nearest(field, known)])
        try:
            own.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"students: {field} {value!r}: {error}") from error
    usual = configs.usual_learning_rate(config.student.model)
    if "student.learning_rate" not in changes and own.student.learning_rate == usual:
        own.student.learning_rate = 0.0  # what suits the model, should that be another one
    return configs.resolve(own)
