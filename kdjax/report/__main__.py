"""Writes the report of a run, or one page on several side by side.

python -m kdjax.report runs/digits [--out=FILE] [--data_dir=DIR] [--risk=0.01] [--delta=0.05]
python -m kdjax.report runs/a runs/b [--out=comparison.html] [--risk=0.01] [--delta=0.05]
"""

import pathlib
import warnings
from typing import TYPE_CHECKING

from absl import flags

from kdjax import cli

if TYPE_CHECKING:
    from kdjax.data import Split

OUT = flags.DEFINE_string("out", None, "the file [report.html in the run; or comparison.html]")
DATA_DIR = flags.DEFINE_string("data_dir", None, "the TFDS directory, if not the run's own")
RISK = flags.DEFINE_float("risk", None, "error that the certificate promises, if not the run's own")
DELTA = flags.DEFINE_float("delta", None, "how likely it may fail, if not the run's own")


def main(arguments: list[str]) -> None:
    """Runs the command on the given workdirs."""
    from kdjax.report import page

    folders = [pathlib.Path(argument) for argument in arguments]
    runs = [page.read(folder, risk=RISK.value, delta=DELTA.value) for folder in folders]
    out = pathlib.Path(OUT.value) if OUT.value else None
    if len(runs) > 1:
        path = page.write_comparison(runs, out or pathlib.Path("comparison.html"))
    else:
        path = page.write(runs[0], _test_images(folders[0]), out=out)
    print(path)


def _test_images(folder: pathlib.Path) -> "Split | None":
    """The run's test split; None, with a warning, where the data set is not at hand."""
    from kdjax import stage
    from kdjax.errors import InputError

    config = stage.config_of(folder)
    config.data.dir = DATA_DIR.value or config.data.dir
    try:
        return stage.load_data(config).test
    except (InputError, OSError) as error:
        warnings.warn(f"no galleries: {error}", stacklevel=2)
        return None


if __name__ == "__main__":
    cli.run(main, positional="RUN...")
