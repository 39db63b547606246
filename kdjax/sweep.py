"""A sweep: settings trained together, one chosen on dev, and trained again with other seeds."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_sweep, pipeline
from kdjax.data import Dataset
from kdjax.evaluation import evaluate, selection
from kdjax.runs import students, sweeps
from kdjax.runtime import atomic_io, multihost

Results = dict[pathlib.Path, Any]


def run(config: ConfigDict, folder: pathlib.Path) -> tuple[Dataset, Results]:
    """Trains and evaluates the settings, chooses one on dev, and trains it with other seeds.

    What an interrupted sweep has finished is not repeated; the choice is stored before the seeds
    are trained, and stays.

    Args:
        config: resolved, with a sweep.
        folder: the workdir.

    Returns:
        The data set, and the results by workdir: of the settings, then of the seeds.

    Raises:
        See `pipeline.train`.
    """
    dataset = pipeline.train(config, folder)
    results = _evaluate(list(pipeline.student_workdirs(config, folder)), dataset)
    chosen = _choose(config, folder, results)
    seeds: Results = {}
    if config.sweep_seeds:
        repeated, chosen_folder = _repeated(config, chosen), folder / sweeps.CHOSEN
        if multihost.is_primary():
            numbers = ", ".join(map(str, config_sweep.parse_seeds(config.sweep_seeds)))
            print(f"chosen on dev: {chosen}; it is trained again with seeds {numbers}", flush=True)
        pipeline.train_students(repeated, chosen_folder, dataset, run=(config, folder))
        seeds = _evaluate(list(pipeline.student_workdirs(repeated, chosen_folder)), dataset)
    if multihost.is_primary():
        _write(folder, _table(config, chosen, results, seeds))
    return dataset, {**results, **seeds}


def finished_results(config: ConfigDict, folder: pathlib.Path) -> Results | None:
    """Returns the results as `run` does; None if the sweep is not finished.

    Raises:
        InputError: if the workdir belongs to another run, or a file in it is damaged.
    """
    results = pipeline.finished_results(config, folder)
    if results is None or not (folder / sweeps.FILE).exists():
        return None
    if not config.sweep_seeds:
        return results
    repeated = _repeated(config, sweeps.read(folder)["chosen"])
    paths = list(pipeline.student_workdirs(repeated, folder / sweeps.CHOSEN))
    complete = len(sweeps.read(folder)["seeds"]) == len(paths)
    seeds = _stored(paths) if complete else None
    return None if seeds is None else {**results, **seeds}


def _repeated(config: ConfigDict, chosen: str) -> ConfigDict:
    """Returns the config of the chosen setting with a student for each seed of `sweep_seeds`."""
    setting = students.expand(config)[chosen].to_dict()
    seeds = config_sweep.parse_seeds(config.sweep_seeds)
    return configs.resolve(ConfigDict({**setting, "students": tuple({"seed": s} for s in seeds)}))


def _evaluate(folders: Sequence[pathlib.Path], dataset: Dataset) -> Results:
    """Returns the results of workdirs; evaluates all of them if one has not been evaluated."""
    return _stored(folders) or evaluate.evaluate_all(folders, dataset)


def _stored(folders: Sequence[pathlib.Path]) -> Results | None:
    paths = [folder / "results.json" for folder in folders]
    if not all(path.exists() for path in paths):
        return None
    return {path.parent: atomic_io.read_json(path) for path in paths}


def _choose(config: ConfigDict, folder: pathlib.Path, results: Results) -> str:
    """Returns the name of the chosen setting, which `sweep.json` keeps."""
    with multihost.primary_first("setting chosen"):
        if not (folder / sweeps.FILE).exists():
            chosen = selection.choose(_rows(results), config.sweep_metric)
            _write(folder, _table(config, chosen, results, {}))
    name: str = sweeps.read(folder)["chosen"]
    return name


def _table(config: ConfigDict, chosen: str, results: Results, seeds: Results) -> dict[str, Any]:
    """Returns the content of `sweep.json`, see `sweeps.read`."""
    rows, repeated = _rows(results), _rows(seeds)
    for row, changes in zip(rows, students.changes_of(config), strict=True):
        row["changes"] = changes
    mean, deviation = selection.mean_and_deviation(repeated) if repeated else (None, None)
    return {
        "metric": config.sweep_metric,
        "chosen": chosen,
        "settings": rows,
        "seeds": repeated,
        "mean": mean,
        "deviation": deviation,
    }


def _rows(results: Results) -> list[selection.Row]:
    return [selection.row(folder, values) for folder, values in results.items()]


def _write(folder: pathlib.Path, table: Mapping[str, Any]) -> None:
    atomic_io.write_json(folder / sweeps.FILE, table)
