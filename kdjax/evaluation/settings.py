"""What an evaluation is asked for: by its arguments, by the config, or by the last evaluation."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from kdjax.data import deployment_views
from kdjax.errors import InputError
from kdjax.runs import initial_weights, restore, workdir
from kdjax.runtime import atomic_io
from kdjax.selective import validation
from kdjax.training.spec import TEACHER


def load_config(folder: pathlib.Path) -> ConfigDict:
    """Returns the config of a workdir; `selective` of a teacher is that of its last evaluation."""
    config = restore.load_config(folder)
    path = folder / "results.json"
    if workdir.read_metadata(folder)["stage"] == TEACHER and path.exists():
        config.selective.update(atomic_io.read_json(path).get("selective", {}))
    return config


def requested(config: ConfigDict, **given: float | None) -> dict[str, float]:
    """Returns the requested `risk`, `delta` and `coverage`: those given, else the config's.

    Raises:
        InputError: for one that is out of range.
    """
    requested = {
        name: float(config.selective[name] if value is None else value)
        for name, value in given.items()
    }
    validation.probability("risk", requested["risk"])
    validation.probability("delta", requested["delta"])
    validation.share("coverage", requested["coverage"])
    return requested


def views_name(folder: pathlib.Path) -> str:
    """Returns the name of the deployment views of a workdir.

    A teacher has those of the student with which it was evaluated last, or none.
    """
    if workdir.read_metadata(folder)["stage"] == TEACHER:
        path = folder / "results.json"
        evaluated = atomic_io.read_json(path) if path.exists() else {}
        return str(evaluated.get("views", deployment_views.NONE))
    return str(restore.load_config(folder).selective.views)


def last_runs(folder: pathlib.Path) -> int:
    """Returns `runs` of the last evaluation; 1 without one, or if its results are damaged."""
    try:
        return int(workdir.read_results(folder)["guarantee"]["runs"])
    except (InputError, KeyError, TypeError):
        return 1


def recorded(folder: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """Returns what `results.json` records of the settings: of a teacher, see `of_teacher`.

    Of a student `initial_weights`, if they may have seen calibration images.
    """
    metadata = workdir.read_metadata(folder)
    if metadata["stage"] == TEACHER:
        return of_teacher(config)
    init = config.student.init
    source = initial_weights.unknown_source(init, config.data, metadata["dataset"])
    return {"initial_weights": source} if source else {}


def of_teacher(config: ConfigDict) -> dict[str, Any]:
    """Returns `selective` for the results of a teacher, whose config does not have it.

    Without the gate, which only students have.
    """
    fields = config.selective.to_dict().items()
    return {"selective": {name: value for name, value in fields if not name.startswith("gate")}}
