"""Trains a teacher and a student, evaluates the student and writes the report.

python -m kdjax.main --config=configs/digits.py [--workdir=runs/digits] [--config.FIELD=VALUE ...]
"""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from kdjax import cli
from kdjax.errors import InputError

if TYPE_CHECKING:
    from kdjax.data import Dataset

CONFIG = config_flags.DEFINE_config_file("config", None, "the config file, a Python file")
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
        raise InputError("no config given: for example --config=configs/digits.py")
    config = configs.resolve(CONFIG.value)
    folder = pathlib.Path(WORKDIR.value or _default_workdir(config))
    compiler.enable_compilation_cache()
    if config.cpu_tuning:
        compiler.tune_allocator()
    multihost.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    results = _run(config, folder)
    if multihost.is_primary():
        _print_results(config, folder, results)


def _default_workdir(config: Any) -> str:
    if not config.name:
        raise InputError("the config has no name: give one with --config.name, or --workdir")
    # A smoke run must not be mixed up with the full run.
    return f"runs/{config.name}_smoke" if config.smoke else f"runs/{config.name}"


def _run(config: Any, folder: pathlib.Path) -> dict[pathlib.Path, Any]:
    """Trains, evaluates and reports unless the run is finished; returns the results by workdir."""
    from kdjax import pipeline
    from kdjax.evaluation import evaluate
    from kdjax.runs import restore, workdir
    from kdjax.runtime import multihost

    finished = pipeline.finished_results(config, folder)
    if finished is None:
        with workdir.lock(folder) if multihost.is_primary() else contextlib.nullcontext():
            dataset = pipeline.train(config, folder)
            workdirs = list(pipeline.student_workdirs(config, folder))
            results = evaluate.evaluate_all(workdirs, dataset)
            if multihost.is_primary():
                _write_reports(list(results), folder, dataset)
        return results
    if multihost.is_primary():
        print(f"the run in {folder} is finished; nothing to do")
        if not all((path / "report.html").exists() for path in finished):
            with workdir.lock(folder):  # stopped between writing the results and the report
                _write_reports(list(finished), folder, restore.load_data(config))
    return finished


def _write_reports(
    workdirs: Sequence[pathlib.Path], folder: pathlib.Path, dataset: "Dataset"
) -> None:
    """Writes the report of each student and, if there are several, the comparison page."""
    from kdjax.report import page

    runs = [page.read(workdir) for workdir in workdirs]
    if len(runs) > 1:
        page.write_comparison(runs, folder / "comparison.html")
    for run in runs:
        page.write(run, dataset.test)


def _print_results(config: Any, folder: pathlib.Path, results: dict[pathlib.Path, Any]) -> None:
    from kdjax.report import console

    title = f"{config.name} in {folder}"
    if config.students:
        console.show_many({workdir.name: values for workdir, values in results.items()}, title)
        print(f"students: {folder / 'students'}\ncomparison: {folder / 'comparison.html'}")
    else:
        console.show(results[folder], title)
        print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
