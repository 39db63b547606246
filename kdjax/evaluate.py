"""Evaluates a finished run again, or on shifted inputs, and rewrites its report.

kdjax evaluate --workdir=runs/digits [--data_dir=DIR] [--risk=0.01] [--delta=0.05]
kdjax evaluate --workdir=runs/digits --least_coverage=0.8
kdjax evaluate --workdir=runs/digits --gate=mahalanobis [--gate_acceptance=0.95]
kdjax evaluate --workdir=runs/digits --shift=noise,blur,contrast,rotation,ood:cifar10

Of a sweep it evaluates the chosen setting.
"""

import pathlib

from absl import flags

from kdjax import cli, extras

WORKDIR = cli.define_path("workdir", "the workdir of the run")
RUN_FLAGS = cli.define_run_flags()
GATE = flags.DEFINE_string(
    "gate",
    None,
    "stop images unlike those of training: none, energy or mahalanobis [as in the run's config]",
)
GATE_ACCEPTANCE = flags.DEFINE_float(
    "gate_acceptance",
    None,
    "share of images like those of training that the gate should pass [as in the run's config]",
)
LEAST_COVERAGE = flags.DEFINE_float(
    "least_coverage",
    None,
    "least share of accepted images, to be certified together with the risk; 0: none [as in the "
    "run's config]",
)
SHIFT = flags.DEFINE_list(
    "shift",
    None,
    "evaluate on shifted inputs and write shift.json: noise, blur, contrast, rotation, or "
    "ood:NAME for the test split of another data set",
)


def main() -> None:
    """Runs the command."""
    from kdjax.errors import InputError
    from kdjax.runs import sweeps, workdir
    from kdjax.runtime import compiler

    if WORKDIR.value is None:
        raise InputError("no workdir given: for example --workdir=runs/digits")
    changes = {
        "--risk": RUN_FLAGS.risk,
        "--delta": RUN_FLAGS.delta,
        "--least_coverage": LEAST_COVERAGE,
        "--gate": GATE,
        "--gate_acceptance": GATE_ACCEPTANCE,
    }
    given = [name for name, flag in changes.items() if flag.value is not None]
    if SHIFT.value is not None and given:
        raise InputError(
            "--shift uses the threshold and gate of results.json: run the command with "
            f"{' and '.join(given)} and without --shift first"
        )
    # Raises for a folder that is not a workdir, before it is locked.
    folder = sweeps.resolve(pathlib.Path(WORKDIR.value))
    compiler.enable_compilation_cache()
    with workdir.lock(folder):
        _evaluate(folder)


def _evaluate(folder: pathlib.Path) -> None:
    from kdjax.evaluation import cost, evaluate, robustness
    from kdjax.report import console
    from kdjax.runs import restore, workdir

    data_dir = RUN_FLAGS.data_dir.value
    if SHIFT.value is None:
        dataset = restore.load_dataset(folder, data_dir)
        results = evaluate.evaluate(
            folder,
            dataset,
            risk=RUN_FLAGS.risk.value,
            delta=RUN_FLAGS.delta.value,
            coverage=LEAST_COVERAGE.value,
            gate=GATE.value,
            gate_acceptance=GATE_ACCEPTANCE.value,
        )
        console.show(results, str(folder))
        console.show_sizes({"student": cost.read_cost(folder)})
    else:
        robustness.check_names(SHIFT.value)
        workdir.read_results(folder)  # raises before the data are loaded
        dataset = restore.load_dataset(folder, data_dir)
        shifts = robustness.evaluate_shifts(folder, SHIFT.value, data_dir=data_dir, dataset=dataset)
        console.show_shift(shifts, str(folder))
    if extras.warn("report", "no report is written"):
        from kdjax.report import page

        print(f"report: {page.write(page.read(folder), dataset.test)}")


if __name__ == "__main__":
    cli.run(main, needs=["train"])
