"""Evaluates a finished run again, or on shifted inputs; writes its report anew.

python -m kdjax.evaluate --workdir=runs/digits [--data_dir=DIR] [--risk=0.01] [--delta=0.05]
python -m kdjax.evaluate --workdir=runs/digits --shift=noise,blur,contrast,rotation,ood:cifar10
"""

import pathlib

from absl import flags

from kdjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run")
DATA_DIR = flags.DEFINE_string("data_dir", None, "the TFDS directory, if not the run's own")
RISK = flags.DEFINE_float("risk", None, "error that the certificate promises, if not the run's own")
DELTA = flags.DEFINE_float("delta", None, "how likely it may fail, if not the run's own")
SHIFT = flags.DEFINE_list(
    "shift", None, "noise, blur, contrast, rotation, ood:NAME of another data set: shift.json alone"
)


def main() -> None:
    """Runs the command."""
    from kdjax import compiler, workdir
    from kdjax.errors import InputError

    if WORKDIR.value is None:
        raise InputError("no workdir given: for example --workdir=runs/digits")
    if SHIFT.value is not None and (RISK.value is not None or DELTA.value is not None):
        raise InputError(
            "--shift keeps the threshold of results.json: give --risk and --delta to a command "
            "of their own first"
        )
    folder = pathlib.Path(WORKDIR.value)
    workdir.read(folder)  # no folder is made or locked that is not a run's
    compiler.keep_programs()
    with workdir.lock(folder):
        _evaluate(folder)


def _evaluate(folder: pathlib.Path) -> None:
    from kdjax import assess, shifted, stage
    from kdjax.report import page, table

    if SHIFT.value is None:
        dataset = stage.data_of(folder, DATA_DIR.value)
        table.show(assess.assess(folder, dataset, risk=RISK.value, delta=DELTA.value), str(folder))
    else:
        found = shifted.shifted(folder, SHIFT.value, data_dir=DATA_DIR.value)
        dataset = stage.data_of(folder, DATA_DIR.value)
        table.show_shift(found, str(folder))
    print(f"the report: {page.write(page.read(folder), dataset.test)}")


if __name__ == "__main__":
    cli.run(main)
