"""Exports the student of a run as files that run without kdjax, with a model card.

python -m kdjax.export --workdir=runs/digits --out=model/ [--risk=0.01] [--delta=0.05]
"""

import pathlib

from absl import flags

from kdjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "the workdir of the run")
OUT = flags.DEFINE_string("out", None, "the folder to create")
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
            f"network's on {model_card['checked']['on']}"
        )
    print(out / card.FILE_NAME, *model_card["notes"], sep="\n  ")


if __name__ == "__main__":
    cli.run(main)
