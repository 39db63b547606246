"""Writes a run's student as files that run without kdjax, with a card that says what they do.

python -m kdjax.export --workdir=runs/digits --out=model/ [--risk=0.01] [--delta=0.05]
"""

import pathlib

from absl import flags

from kdjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run")
OUT = flags.DEFINE_string("out", None, "the folder to make")
DATA_DIR = flags.DEFINE_string("data_dir", None, "the TFDS directory, if not the run's own")
RISK = flags.DEFINE_float("risk", None, "error that the certificate promises, if not the run's own")
DELTA = flags.DEFINE_float("delta", None, "how likely it may fail, if not the run's own")


def main() -> None:
    """Runs the command and says what was written."""
    from kdjax import card, compiler
    from kdjax.errors import InputError
    from kdjax.export import export

    if WORKDIR.value is None or OUT.value is None:
        raise InputError("two flags are needed: for example --workdir=runs/digits --out=model/")
    compiler.keep_programs()
    out = pathlib.Path(OUT.value)
    written = export(
        pathlib.Path(WORKDIR.value),
        out,
        data_dir=DATA_DIR.value,
        risk=RISK.value,
        delta=DELTA.value,
    )
    for name, file in written["files"].items():
        size = (out / name).stat().st_size / 1e6
        difference = file["largest_difference"]
        print(
            f"{out / name}: {size:.1f} MB, logits within {difference:.1g} of the network's on "
            f"{written['checked']['on']}"
        )
    print(out / card.NAME, *written["notes"], sep="\n  ")


if __name__ == "__main__":
    cli.run(main)
