"""Measures what the gates do to the images that a finished run accepts, and writes a page.

python experiments/outlier_gate.py --workdir=runs/fashion_mnist [--data_dir=DIR] \\
    [--acceptance=0.95] [--shift=noise,ood:cifar10] [--train_command=TEXT] [--out=FILE.md]

The run is evaluated in a copy, once with each gate.
"""

import argparse
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from kdjax import data
from kdjax.evaluation import evaluate, robustness
from kdjax.evaluation.certification import requested_certificate
from kdjax.runs import restore
from kdjax.runtime import atomic_io
from kdjax.selective.outliers import GATES, NONE

_TEXT = """\
# What a gate stops

```
{commands}
```

{name}, student {model}, accuracy on test {accuracy}. Certified at risk {risk}, delta {delta}; \
without a certificate the threshold accepts 90 % of dev. Requested acceptance of the gate: \
{acceptance}. One seed. Shares are those of all images of a row; of another data set every \
accepted image is an error.

| gate | certified: passes at least | passes of test | certified threshold accepts of test | error \
among them |
|---|---|---|---|---|
{gates}

| images | gate | passed by the gate | accepted without the gate | accepted | AUROC of \
confidence | AUROC of the gate score | passed where 95 % of test pass |
|---|---|---|---|---|---|---|---|
{shifts}
"""
Measured = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def measure(
    folder: pathlib.Path,
    dataset: data.Dataset,
    shifts: Sequence[str],
    *,
    acceptance: float,
    data_dir: str | None,
) -> Measured:
    """Returns the results and the content of shift.json with each gate.

    Args:
        folder: a copy of the workdir, which is changed.
        dataset: of the run.
        shifts: see `robustness.evaluate_shifts`; without a gate they are not evaluated.
        acceptance: requested of the gate.
        data_dir: the TFDS directory.
    """
    found = {}
    for gate in GATES:
        shifted: Mapping[str, Any] = {}
        share = None if gate == NONE else acceptance
        results = evaluate.evaluate(folder, dataset, gate=gate, gate_acceptance=share)
        if gate != NONE:
            shifted = robustness.evaluate_shifts(folder, shifts, data_dir=data_dir, dataset=dataset)
        found[gate] = results, shifted
    return found


def page(
    measured: Measured, metadata: Mapping[str, Any], *, commands: str, acceptance: float
) -> str:
    """Returns the page in Markdown."""
    results = measured[NONE][0]
    guarantee, config = results["guarantee"], metadata["config"]
    return _TEXT.format(
        commands=commands,
        name=metadata["dataset"]["name"],
        model=config["student"]["model"],
        accuracy=_percent(results["test"]["accuracy"]),
        risk=_percent(guarantee["risk"]),
        delta=_percent(guarantee["delta"]),
        acceptance=_percent(acceptance),
        gates="\n".join(_gate_row(gate, values) for gate, (values, _) in measured.items()),
        shifts="\n".join(
            row for gate, (_, shifted) in measured.items() for row in _shift_rows(gate, shifted)
        ),
    )


def _gate_row(name: str, results: Mapping[str, Any]) -> str:
    certificate, gate = requested_certificate(results["guarantee"]), results.get("gate")
    shares: tuple[float | None, ...] = (None, None)
    if gate is not None:
        shares = gate["bound"], gate["test"]["passed"] / gate["test"]["examples"]
    figures = *shares, certificate["test_coverage"], certificate["test_error"]
    return _row(name, *map(_percent, figures))


def _shift_rows(gate: str, shifts: Mapping[str, Any]) -> list[str]:
    if not shifts:
        return []
    lines = [("test", shifts["clean"])]
    for name, severities in shifts["shifts"].items():
        lines += [(f"{name}, severity {line['severity']}", line) for line in severities]
    rows = [
        _row(
            name,
            gate,
            *(
                _percent(share)
                for share in (line["passed"], line["without_gate"]["coverage"], line["coverage"])
            ),
            *("", "", ""),
        )
        for name, line in lines
    ]
    for name, values in shifts["ood"].items():
        shares = values["passed"], values["without_gate"]["accepted"], values["accepted"]
        separation = values["auroc"], values["gate_auroc"], values["gate_fpr"]
        rows.append(_row(name, gate, *map(_percent, (*shares, *separation))))
    return rows


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def main() -> None:
    """Prints the page, or also writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--acceptance", type=float, default=0.95)
    parser.add_argument("--shift", default="noise,ood:cifar10")
    parser.add_argument("--train_command", default="", help="for the page: that made the run")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    dataset = restore.load_dataset(options.workdir, options.data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(options.workdir, pathlib.Path(scratch, "run"))
        measured = measure(
            folder,
            dataset,
            options.shift.split(","),
            acceptance=options.acceptance,
            data_dir=options.data_dir,
        )
    command = (
        f"python experiments/outlier_gate.py --workdir=runs/{options.workdir.name} "
        f"--acceptance={options.acceptance:g} --shift={options.shift}"
    )
    metadata = atomic_io.read_json(options.workdir / "config.json")
    commands = "\n".join(filter(None, (options.train_command, command)))
    text = page(measured, metadata, commands=commands, acceptance=options.acceptance)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
