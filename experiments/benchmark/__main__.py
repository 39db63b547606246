"""Measures kdjax against PyTorch and Keras, side by side on the same machine.

python -m experiments.benchmark measure --torch-python=PATH --keras-python=PATH --out=FILE.json
python -m experiments.benchmark agree --torch-python=PATH
python -m experiments.benchmark table FILE.json... --readme=README.md [--check]

Each PATH is the python of an environment of that library's own (torch and numpy; keras and jax).
A side without one is left out, which the result says. `agree` exits with 1 where logits of the
same weights differ by more than 1e-4; `table --check` where the README is not made from the files.
On a GPU nothing else has to be said, but give more --steps, such as 200: kdjax runs 50 a call.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments.benchmark import agree, cases, measure, protocol, table
from experiments.benchmark.protocol import WorkerError
from kdjax.errors import InputError

VARIANTS = sorted({v.name for there in cases.VARIANTS.values() for v in there})


def main(arguments: Sequence[str]) -> None:
    """Does what the first argument says."""
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except (InputError, WorkerError, OSError) as error:
        sys.exit(f"benchmark: error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("measure")
    one.set_defaults(act=_measure)
    one.add_argument("--torch-python", default="")
    one.add_argument("--keras-python", default="")
    one.add_argument("--out", type=pathlib.Path, required=True)
    one.add_argument("--batch", type=_count, default=128)
    one.add_argument("--steps", type=_count, default=4)
    one.add_argument("--rounds", type=_count, default=5)
    one.add_argument("--cases", nargs="+", choices=cases.CASES, default=list(cases.CASES))
    one.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    one = commands.add_parser("agree")
    one.set_defaults(act=_agree)
    one.add_argument("--torch-python", required=True)
    one = commands.add_parser("table")
    one.set_defaults(act=_table)
    one.add_argument("results", nargs="+", type=pathlib.Path)
    one.add_argument("--readme", type=pathlib.Path, required=True)
    one.add_argument("--check", action="store_true")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _measure(options: argparse.Namespace) -> None:
    size = measure.Size(options.batch, options.steps, options.rounds)
    pythons = {
        "torch": options.torch_python, "kdjax": sys.executable, "keras": options.keras_python
    }  # fmt: skip
    command = {"command": protocol.public_command("experiments.benchmark")}
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def save(found: dict[str, Any]) -> None:
        options.out.write_text(json.dumps({**command, **found}, indent=2) + "\n")

    with protocol.workers(pythons) as asks:
        found = measure.measure(asks, options.cases, options.variants, size, save)
    print(table.markdown({**command, **found}))
    if not agree.holds(found["agreement"]):
        sys.exit("benchmark: error: the libraries do not compute the same")


def _agree(options: argparse.Namespace) -> None:
    with protocol.workers({"torch": options.torch_python, "kdjax": sys.executable}) as asks:
        found = agree.agree(asks)
    for row in found:
        print(table.agreement_line(row))
    sys.exit(not agree.holds(found))


def _table(options: argparse.Namespace) -> None:
    section = table.readme([json.loads(path.read_text()) for path in options.results])
    text = options.readme.read_text()
    made = table.inserted(text, section)
    if options.check:
        sys.exit(None if made == text else f"{options.readme} is not made from these results")
    options.readme.write_text(made)


if __name__ == "__main__":
    main(sys.argv[1:])
