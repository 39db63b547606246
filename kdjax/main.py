"""Trains a teacher and a student as a config says, evaluates the student, writes the report.

python -m kdjax.main --config=configs/digits.py [--workdir=runs/digits] [--config.FIELD=VALUE ...]
"""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.data import Dataset

CONFIG = config_flags.DEFINE_config_file("config", None, "the file of the config")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "the folder of the run [runs/<config name>, with _smoke if it is one]"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of many processes")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes the run has")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")


def main() -> None:
    """Runs the command. The same one again resumes, or says that the run is finished."""
    from kdjax import assess, compiler, config, parallel, stage, train, workdir
    from kdjax.errors import InputError
    from kdjax.report import table

    if CONFIG.value is None:
        raise InputError("no config given: for example --config=configs/digits.py")
    resolved = config.resolve(CONFIG.value)
    # A try must not take the place of the run that it is a try of.
    default = f"runs/{resolved.name}_smoke" if resolved.smoke else f"runs/{resolved.name}"
    folder = pathlib.Path(WORKDIR.value or default)
    compiler.keep_programs()
    if resolved.tuned:
        compiler.keep_memory()
    parallel.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    found = train.finished(resolved, folder)
    if found is None:
        with workdir.lock(folder) if parallel.primary() else contextlib.nullcontext():
            dataset = train.run(resolved, folder)
            found = assess.assess_all(list(train.folders(resolved, folder)), dataset)
            if parallel.primary():
                _report(list(found), folder, dataset)
    elif parallel.primary():
        print(f"the run in {folder} is finished; nothing to do")
        if not all((where / "report.html").exists() for where in found):
            with workdir.lock(folder):  # it was stopped between its results and its report
                _report(list(found), folder, stage.load_data(resolved))
    if parallel.primary():
        title = f"{resolved.name} in {folder}"
        if resolved.students:
            table.show_many({where.name: results for where, results in found.items()}, title)
            print(f"each in {folder / 'students'}; side by side: {folder / 'comparison.html'}")
        else:
            table.show(found[folder], title)
            print(f"the report: {folder / 'report.html'}")


def _report(folders: Sequence[pathlib.Path], folder: pathlib.Path, dataset: "Dataset") -> None:
    """Writes the report of each student and, if they are many, the page that compares them."""
    from kdjax.report import page

    runs = [page.read(where) for where in folders]
    if len(runs) > 1:
        page.write_comparison(runs, folder / "comparison.html")
    for run in runs:
        page.write(run, dataset.test)


if __name__ == "__main__":
    cli.run(main)
