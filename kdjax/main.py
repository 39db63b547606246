"""Trains a teacher and a student, evaluates the student and writes the report.

kdjax train --config=digits [--workdir=runs/digits] [--config.FIELD=VALUE ...]
kdjax train --config=path/to/config.py

`python -m kdjax.main` is the same command. `kdjax list configs` shows the configs of the package.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from kdjax import cli, command_lines, extras
from kdjax.errors import InputError

if TYPE_CHECKING:
    from kdjax.data import Dataset

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the name of a config of the package, or the path of a Python file"
)
WORKDIR = cli.define_path(
    "workdir", "the workdir of the run [runs/<config name>; runs/<config name>_smoke]"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for several processes"
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes in the run")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "index of this process, from 0")


def main() -> None:
    """Runs the command; an interrupted run is resumed, a finished run is only printed."""
    from kdjax import config as configs
    from kdjax.runtime import compiler, multihost

    if CONFIG.value is None:
        raise InputError("no config given: for example --config=digits; kdjax list configs")
    config = configs.resolve(CONFIG.value, devices=False)
    extras.warn("report", "no report is written")
    folder = pathlib.Path(WORKDIR.value or _default_workdir(config))
    compiler.enable_compilation_cache()
    if config.cpu_tuning:
        compiler.tune_allocator()
    multihost.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    config = configs.resolve(config)
    results = _run(config, folder)
    if multihost.is_primary():
        _print_results(config, folder, results)


def _default_workdir(config: Any) -> str:
    if not config.name:
        raise InputError("the config has no name: give one with --config.name, or --workdir")
    if ".." in pathlib.PurePath(config.name).parts:
        raise InputError(f"name {config.name!r} leads out of runs/: give a --workdir")
    # A smoke run must not be mixed up with the full run.
    return f"runs/{config.name}_smoke" if config.smoke else f"runs/{config.name}"


def _run(config: Any, folder: pathlib.Path) -> dict[pathlib.Path, Any]:
    """Trains, evaluates and reports unless the run is finished; returns the results by workdir."""
    from kdjax import pipeline, sweep
    from kdjax.runs import restore, workdir
    from kdjax.runtime import multihost

    finished = (sweep if config.sweep else pipeline).finished_results(config, folder)
    if finished is None:
        with workdir.lock(folder) if multihost.is_primary() else contextlib.nullcontext():
            dataset, results = (sweep.run if config.sweep else _train)(config, folder)
            if multihost.is_primary():
                _write_reports(list(results), folder, dataset)
        return results
    if multihost.is_primary():
        restore.check_own_images(next(iter(finished)), config.data.dir or None)
        print(f"the run in {folder} is finished; nothing to do")
        if not extras.missing("report") and not all(
            (path / "report.html").exists() for path in finished
        ):
            with workdir.lock(folder):  # stopped between writing the results and the report
                _write_reports(
                    list(finished),
                    folder,
                    restore.load_dataset(next(iter(finished)), config.data.dir or None),
                )
    return finished


def _train(config: Any, folder: pathlib.Path) -> tuple["Dataset", dict[pathlib.Path, Any]]:
    """Trains and evaluates the students; returns the data set, and their results by workdir."""
    from kdjax import pipeline
    from kdjax.evaluation import evaluate

    dataset = pipeline.train(config, folder)
    workdirs = list(pipeline.student_workdirs(config, folder))
    return dataset, evaluate.evaluate_all(workdirs, dataset)


def _write_reports(
    workdirs: Sequence[pathlib.Path], folder: pathlib.Path, dataset: "Dataset"
) -> None:
    """Writes the report of each student and, if there are several, the comparison page."""
    if extras.missing("report"):
        return
    from kdjax.report import page
    from kdjax.runs import sweeps

    runs = [page.read(workdir) for workdir in workdirs]
    if sweeps.is_sweep(folder):
        page.write_sweep(folder, runs, folder / page.COMPARISON)
    elif len(runs) > 1:
        page.write_comparison(runs, folder / page.COMPARISON)
    for run in runs:
        page.write(run, dataset.test)


def _print_results(config: Any, folder: pathlib.Path, results: dict[pathlib.Path, Any]) -> None:
    from kdjax.evaluation import cost
    from kdjax.report import console
    from kdjax.runs import students, sweeps

    title, several = f"{config.name} in {folder}", students.has_several(config)
    shown = [sweeps.chosen_workdir(folder)] if config.sweep else list(results)
    if config.sweep:
        console.show_sweep(sweeps.read(folder), results[shown[0]], title)
    elif several:
        console.show_many({workdir.name: values for workdir, values in results.items()}, title)
    else:
        console.show(results[folder], title)
    names = {path: path.name if several else "student" for path in shown}
    console.show_sizes({name: cost.read_cost(path) for path, name in names.items()})
    if several:
        print(f"students: {folder / 'students'}")
    if config.sweep_seeds:
        print(f"chosen setting with other seeds: {folder / sweeps.CHOSEN}")
    page = folder / ("comparison.html" if several else "report.html")
    if page.exists():
        print(f"{page.stem}: {page}")
    print("\n  ".join(["next:", *_next_commands(folder, {path: results[path] for path in shown})]))


def _next_commands(folder: pathlib.Path, results: dict[pathlib.Path, Any]) -> Iterator[str]:
    """Yields the commands that may follow: report, export of the best student, prediction.

    Args:
        folder: the workdir of the run.
        results: of the students among which the best one on dev is exported, by workdir.
    """
    from kdjax.evaluation.certification import operating_point

    yield command_lines.command_line("report", folder)
    best = min(results, key=lambda path: _dev_aurc(results[path]))
    model = folder.with_name(f"{folder.name}_model")
    options = [f"--workdir={best}", f"--out={model}"]
    if operating_point(results[best]).source == "none":  # it would abstain on every image
        options.append("--coverage=0.9")
    yield command_lines.command_line("export", *options)
    yield f"{command_lines.command_line('predict', f'--model={model}')} IMAGE..."


def _dev_aurc(results: Mapping[str, Any]) -> float:
    return results["scores"][results["best_score"]]["dev_aurc"]


if __name__ == "__main__":
    cli.run(main, needs=["train"])
