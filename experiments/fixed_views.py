"""Measures what fixed views of the training images cost in accuracy and save in time.

python experiments/fixed_views.py [--config=digits] [--views=1,4,8,16] [--seeds=2] [--out=FOLDER]
    [--result=FILE] [--config.FIELD=VALUE ...]

For each seed a teacher is trained, and then a student with each number of views
(`--config.teacher.views`), with as many views as epochs, and with a teacher that is applied in
every step (`teacher.cache=off`). The students of a seed have the same teacher, initial weights and
order of images, and none finds logits that another one has cached. Without --config the digits are
trained for a few minutes on two CPU cores. A run that is finished is not trained again.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax import config as configs
from kdjax import config_files, pipeline, recipes
from kdjax.evaluation import cost, evaluate
from kdjax.runs import teachers
from kdjax.runtime import atomic_io, compiler

# Of the digits without --config: shorter than their config.
SHORT = {"teacher.epochs": 10, "student.epochs": 24, "objective.pretrain_epochs": 4}
UNCACHED = "uncached"
RECORD = "fixed_views.json"
LIBRARIES = ("kdjax", "jax", "jaxlib", "flax", "optax", "numpy")


def load_config(name: str, flags: Sequence[str]) -> ConfigDict:
    """Returns a config with the changes of flags such as `--config.student.epochs=3`.

    Args:
        name: of a config of the package, or the path of a file; empty: the digits, shortened.
        flags: of the command line; a recipe is applied where it stands.
    """
    config = config_files.load(config_files.find(name or "digits"))
    if not name:
        config.update_from_flattened_dict(SHORT)
    for flag in flags:
        field, equals, value = flag.removeprefix("--config.").partition("=")
        if not equals or not flag.startswith("--config."):
            sys.exit(f"fixed_views.py: error: {flag!r}: only --config.FIELD=VALUE can follow")
        if field == "recipe":
            recipes.apply(config, value)
        else:
            config.update_from_flattened_dict({field: value})
    return configs.convert_types(config)


def settings(views: Sequence[int], epochs: int) -> dict[str, dict[str, Any]]:
    """Returns the changes of each setting by name, the uncached one last."""
    counts = [*(count for count in views if count < epochs), epochs]
    named = {
        f"{count} (one per epoch)" if count == epochs else f"{count}": {"teacher.views": count}
        for count in counts
    }
    return {**named, UNCACHED: {"teacher.views": 0, "teacher.cache": "off"}}


def changed(config: ConfigDict, seed: int, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns the resolved config of a seed with changes of fields."""
    copy = ConfigDict(config.to_dict(), type_safe=False)
    copy.update_from_flattened_dict({"seed": seed, "order_seed": -1, **changes})
    return configs.resolve(copy)


def train_teacher(config: ConfigDict, seed: int, folder: pathlib.Path) -> str:
    """Trains the teacher of a seed, with one epoch of a student, and returns its workdir."""
    changes = {"student.epochs": 1, "objective.pretrain_epochs": 0, "teacher.cache": "off"}
    pipeline.train(changed(config, seed, changes), folder)
    return str(folder)


def run(config: ConfigDict, seed: int, changes: Mapping[str, Any], folder: pathlib.Path) -> Any:
    """Returns the record of a student: its results on test, and the seconds of its training.

    The seconds include the teacher's logits and the checkpoints, but not compilation.
    """
    record = folder / RECORD
    if record.exists():
        return atomic_io.read_json(record)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    if teacher := changes.get("teacher.workdir"):
        shutil.rmtree(pathlib.Path(teacher) / "teacher" / "logits", ignore_errors=True)
    resolved = changed(config, seed, changes)
    before, start = compiler.compile_seconds(), time.monotonic()
    dataset = pipeline.train(resolved, folder)
    seconds = time.monotonic() - start - (compiler.compile_seconds() - before)
    results = evaluate.evaluate(folder, dataset)
    best = results["scores"][results["best_score"]]
    values = {
        "accuracy": 100 * results["test"]["accuracy"],
        "aurc": 1000 * best["aurc"],
        "error_80": 100 * best["error_at_coverage"]["80"],
        "seconds": seconds,
    }
    atomic_io.write_json(record, values)
    return values


def test_logits(folder: pathlib.Path) -> np.ndarray:
    """Returns the logits of a run on test."""
    with np.load(folder / "predictions" / "test.npz") as arrays:
        return np.asarray(arrays["logits"])


def mean_and_deviation(values: Sequence[float]) -> str:
    """Returns mean and standard deviation as a cell of the table."""
    deviation = f" (sd {np.std(values, ddof=1):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def table(records: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Returns the Markdown table: a line for each setting.

    Args:
        records: by setting, for each seed, with `UNCACHED` among the settings.
    """
    lines = [
        "| views | accuracy % | minus uncached | AURC x 1000 | error % at 80 % coverage | s | time "
        "relative to uncached (min to max) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in records.items():
        pairs = list(zip(each, records[UNCACHED], strict=True))
        ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
        cells = [
            mean_and_deviation([one["accuracy"] for one in each]),
            mean_and_deviation([one["accuracy"] - other["accuracy"] for one, other in pairs]),
            mean_and_deviation([one["aurc"] for one in each]),
            mean_and_deviation([one["error_80"] for one in each]),
            f"{np.mean([one['seconds'] for one in each]):.1f}",
            f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(config: ConfigDict, seeds: int, records: Any, exact: Sequence[bool]) -> str:
    """Returns the page with the command, the versions and the table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    stages = " -> ".join(config[stage].model for stage in ("teacher", "student"))
    of_seeds = f"{seeds} seeds, from 0" if seeds > 1 else "seed 0"
    return f"""# Fixed views: accuracy and time

```text
python {" ".join(sys.argv)}
```

{config.data.name}, {stages}, method {config.objective.method}, {config.student.epochs} epochs
({config.objective.pretrain_epochs} of them pre-training), batch size {config.student.batch_size},
pad {config.data.pad}, flip {config.data.flip}; {of_seeds}, on test. AURC and error are those of the
score with the lowest AURC on dev. Seconds of the student's training, without compilation, with the
computation of the teacher's logits, from a cache that is empty at the start.
{cost.machine()}, Python {platform.python_version()}, {versions}.

{table(records)}

The logits on test with a view per epoch are those of the uncached run, bit for bit, in
{sum(exact)} of {len(exact)} seeds.
"""


def measure(config: ConfigDict, views: Sequence[int], seeds: int, out: pathlib.Path) -> str:
    """Trains all students and returns the page."""
    resolved = configs.resolve(config)
    named = settings(views, resolved.student.epochs)
    records: dict[str, list[Any]] = {name: [] for name in named}
    exact = []
    for seed in range(seeds):
        folder = out / f"seed-{seed}"
        given = {}
        if not teachers.is_given(resolved):
            given = {"teacher.workdir": train_teacher(config, seed, folder / "teacher")}
        for name, changes in named.items():
            values = run(config, seed, {**given, **changes}, folder / name.partition(" ")[0])
            records[name].append(values)
            print(f"seed {seed}, views {name}: {json.dumps(values)}", flush=True)
        one_per_epoch = test_logits(folder / str(resolved.student.epochs))
        exact.append(np.array_equal(one_per_epoch, test_logits(folder / UNCACHED)))
    return page(resolved, seeds, records, exact)


def main() -> None:
    """Writes the page and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="", help="name or file of the config [digits, shorter]")
    parser.add_argument("--views", default="1,4,8,16", help="numbers of views, with commas")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/fixed_views"))
    parser.add_argument(
        "--result", type=pathlib.Path, help="the Markdown file [OUT/fixed_views.md]"
    )
    options, flags = parser.parse_known_args()
    config = load_config(options.config, flags)
    if config.teacher.workdir:
        sys.exit("fixed_views.py: error: teacher.workdir: the teacher is trained here")
    compiler.enable_compilation_cache()
    compiler.tune_allocator()
    views = [int(count) for count in options.views.split(",")]
    text = measure(config, views, options.seeds, options.out)
    result = options.result or options.out / "fixed_views.md"
    result.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
