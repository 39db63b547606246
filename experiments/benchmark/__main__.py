"""Compares the speed of kdjax with PyTorch, Keras and ONNX Runtime on the same machine.

python -m experiments.benchmark measure --torch-python=PATH --keras-python=PATH --out=FILE.json
    [--networks NAME ...] [--phases NAME ...] [--variants NAME ...] [--rounds=5] [--steps=4]
python -m experiments.benchmark agree --torch-python=PATH
python -m experiments.benchmark table FILE.json... --page=docs/speed.md [--check]

Each PATH is the Python of a separate environment: one with torch and numpy, one with keras and
jax. A library without a PATH is left out, and the results list it as left out. ONNX Runtime runs
the exported networks with the Python of this command. `agree` exits with
status 1 if the logits of equal weights differ by more than 1e-4. `table` replaces the table between
the markers of a Markdown page; with --check it writes nothing and exits with status 1 if the page
differs from the results. The same commands run on a GPU; use more --steps there, such as 200,
because kdjax runs 50 steps per call.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments.benchmark import agreement, cases, measure, protocol, table
from experiments.benchmark.protocol import WorkerError
from kdjax.errors import InputError
from kdjax.export import formats

VARIANTS = sorted({variant.name for group in cases.VARIANTS.values() for variant in group})


def main(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (InputError, WorkerError, OSError) as error:
        sys.exit(f"benchmark: error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="measure|agree|table")
    _add_measure(commands.add_parser("measure", help="measure and write the results file"))
    _add_agree(commands.add_parser("agree", help="compare the logits of equal weights"))
    _add_table(commands.add_parser("table", help="write the table of results into a page"))
    return parser


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_measure)
    parser.add_argument("--torch-python", default="", help="Python of an environment with torch")
    parser.add_argument("--keras-python", default="", help="Python of an environment with keras")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the results file")
    parser.add_argument("--batch", type=_count, default=128, help="batch size")
    parser.add_argument("--steps", type=_count, default=4, help="training steps per timed run")
    parser.add_argument("--rounds", type=_count, default=5, help="timed runs of each variant")
    parser.add_argument(
        *("--cases", "--networks"), nargs="+", choices=cases.CASES, default=list(cases.CASES)
    )
    parser.add_argument("--phases", nargs="+", choices=cases.PHASES, default=list(cases.PHASES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)


def _add_agree(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_agree)
    parser.add_argument("--torch-python", required=True, help="Python of an environment with torch")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_table)
    parser.add_argument("results", nargs="+", type=pathlib.Path, help="results files")
    parser.add_argument(
        "--page",
        type=pathlib.Path,
        required=True,
        help=f"the Markdown page with the markers {table.START} and {table.END}",
    )
    parser.add_argument("--check", action="store_true", help="compare the page, write nothing")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _measure(options: argparse.Namespace) -> None:
    size = measure.Size(options.batch, options.steps, options.rounds)
    pythons = {
        "torch": options.torch_python, "kdjax": sys.executable, "keras": options.keras_python,
        cases.ONNXRUNTIME: sys.executable if formats.onnx_available() else "",
    }  # fmt: skip
    command = {"command": protocol.public_command("experiments.benchmark")}
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def save(results: dict[str, Any]) -> None:
        options.out.write_text(json.dumps({**command, **results}, indent=2) + "\n")

    with protocol.start_workers(pythons) as workers:
        results = measure.measure(
            workers, options.cases, options.phases, options.variants, size, save
        )
    print(table.full_report({**command, **results}))
    if not agreement.within_tolerance(results["agreement"]):
        sys.exit("benchmark: error: the logits or objectives of the libraries differ")


def _agree(options: argparse.Namespace) -> None:
    pythons = {"torch": options.torch_python, "kdjax": sys.executable}
    with protocol.start_workers(pythons) as workers:
        rows = agreement.compare(workers)
    for row in rows:
        print(table.agreement_line(row))
    sys.exit(not agreement.within_tolerance(rows))


def _table(options: argparse.Namespace) -> None:
    section = table.page_section([json.loads(path.read_text()) for path in options.results])
    current = options.page.read_text()
    updated = table.replace_section(current, section)
    if options.check:
        message = f"benchmark: error: {options.page} differs from the table of these results"
        sys.exit(None if updated == current else message)
    options.page.write_text(updated)


if __name__ == "__main__":
    main(sys.argv[1:])
