"""Exports the student of a run as files that run without kdjax, with a model card.

python -m kdjax.export --workdir=runs/digits --out=model/ [--risk=0.01] [--delta=0.05]
"""

import pathlib
from collections.abc import Mapping

from kdjax import cli

WORKDIR = cli.define_path("workdir", "the workdir of the run")
OUT = cli.define_path("out", "the folder to create")
RUN_FLAGS = cli.define_run_flags()


def main() -> None:
    """Runs the command and prints the files, their accuracy and the notes of the card."""
    from kdjax.errors import InputError
    from kdjax.export import card
    from kdjax.export.exporter import export
    from kdjax.runtime import compiler

    if WORKDIR.value is None or OUT.value is None:
        raise InputError("two flags are needed: for example --workdir=runs/digits --out=model/")
    compiler.enable_compilation_cache()
    out = pathlib.Path(OUT.value)
    model_card = export(
        pathlib.Path(WORKDIR.value),
        out,
        data_dir=RUN_FLAGS.data_dir.value,
        risk=RUN_FLAGS.risk.value,
        delta=RUN_FLAGS.delta.value,
    )
    for name, file in model_card["files"].items():
        size = (out / name).stat().st_size / 1e6
        difference = file["largest_difference"]
        print(
            f"{out / name}: {size:.1f} MB, logits differ by at most {difference:.1g} from the "
            f"network's on {model_card['checked']['on']}{_decisions(file['calibration'])}"
        )
    print(out / card.FILE_NAME, *model_card["notes"], sep="\n  ")


def _decisions(calibration: Mapping[str, int] | None) -> str:
    """Returns on how many calibration images a file decides like the run; "" without them."""
    if calibration is None:
        return ""
    images = calibration["images"]
    same = images - calibration["different_decisions"]
    return f"; it decides like the run on {same:,} of {images:,} calibration images"


if __name__ == "__main__":
    cli.run(main)
