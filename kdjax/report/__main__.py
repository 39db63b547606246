"""Writes the report of a run, or a page that compares several runs.

kdjax report runs/digits [--out=FILE] [--data_dir=DIR] [--risk=0.01] [--delta=0.05]
kdjax report runs/a runs/b [--out=comparison.html] [--risk=0.01] [--delta=0.05]

For the workdir of several students or of a sweep the page compares them, in comparison.html of this
workdir.
"""

import pathlib
import warnings
from typing import TYPE_CHECKING

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.data import Split

OUT = cli.define_path(
    "out", "the file to write [report.html in the workdir; for several runs comparison.html]"
)
RUN_FLAGS = cli.define_run_flags()


def main(arguments: list[str]) -> None:
    """Runs the command for the given workdirs."""
    from kdjax.report import page
    from kdjax.runs import sweeps

    given = [pathlib.Path(argument) for argument in arguments]
    folders = [student for folder in given for student in _students(folder)]
    runs = [
        page.read(folder, risk=RUN_FLAGS.risk.value, delta=RUN_FLAGS.delta.value)
        for folder in folders
    ]
    out = pathlib.Path(OUT.value) if OUT.value else None
    if len(given) == 1 and sweeps.is_sweep(given[0]):
        path = page.write_sweep(given[0], runs, out or given[0] / page.COMPARISON)
    elif len(runs) > 1:
        default = given[0] if len(given) == 1 else pathlib.Path()
        path = page.write_comparison(runs, out or default / page.COMPARISON)
    else:
        path = page.write(runs[0], _test_images(folders[0]), out=out)
    print(path)


def _students(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the workdirs of the students in a workdir; the workdir itself if it holds one run."""
    from kdjax import pipeline
    from kdjax.runs import restore, workdir

    if workdir.read_metadata(folder)["stage"] != workdir.STUDENTS:
        return [folder]
    return list(pipeline.student_workdirs(restore.load_config(folder), folder))


def _test_images(folder: pathlib.Path) -> "Split | None":
    """Returns the test split of the run; None, with a warning, if it is missing or has changed."""
    from kdjax.errors import InputError
    from kdjax.runs import restore

    try:
        return restore.load_dataset(folder, RUN_FLAGS.data_dir.value).test
    except (InputError, OSError) as error:
        warnings.warn(f"no galleries: {error}", stacklevel=2)
        return None


if __name__ == "__main__":
    cli.run(main, positional="RUN...", needs=["train", "report"])
