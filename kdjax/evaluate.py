"""Evaluates a finished run again: predictions, results.json, tables.

python -m kdjax.evaluate --workdir=runs/digits [--data_dir=DIR]
"""

import pathlib

from absl import flags

from kdjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run")
DATA_DIR = flags.DEFINE_string("data_dir", None, "the TFDS directory, if not the run's own")


def main() -> None:
    """Runs the command."""
    from kdjax import assess
    from kdjax.errors import InputError
    from kdjax.report import table

    if WORKDIR.value is None:
        raise InputError("no workdir given: for example --workdir=runs/digits")
    folder = pathlib.Path(WORKDIR.value)
    table.show(assess.assess(folder, data_dir=DATA_DIR.value), str(folder))


if __name__ == "__main__":
    cli.run(main)
