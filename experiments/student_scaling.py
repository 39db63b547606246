"""Times several students of one structure in one program against the same number alone.

python -m experiments.student_scaling --networks resnet8 alexnet_small --counts 1 3 7 21 --rounds=5
    [--batch=128] [--steps=4] [--dtypes float32 bfloat16] [--out=FILE.md]

Students differ in their seed, see the same random images of 32x32 and have no teacher. Their layers
are computed for one student after another, as on CPUs, or vmapped over them, as on accelerators. In
each round every program trains for some steps, in turn. The ratio is the images per second of the
students together over those of one student alone in the same round: above 1, one program is faster
than the students one after another.
"""

import argparse
import dataclasses
import itertools
import pathlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmark.protocol import processor, public_command
from kdjax import config as configs
from kdjax.data import Split, batches
from kdjax.data.augment import epoch_order
from kdjax.models import DTYPES, MODELS
from kdjax.runtime.compiler import tune_allocator
from kdjax.training import loop, multi_student, spec, step

CLASSES, SHAPE = 10, (32, 32, 3)
SEPARATE, VMAPPED = "separate", "vmapped"


class Variant(NamedTuple):
    """How many students a program trains, and how their layers are computed."""

    students: int
    layers: str


ALONE = Variant(1, SEPARATE)
Times = Mapping[Variant, Sequence[float]]


def train_spec(network: str, batch: int, dtype: str, steps: int) -> spec.TrainSpec:
    """Returns the spec of a student that is trained with cross-entropy, `steps` an epoch."""
    config = configs.base()
    config.update_from_flattened_dict(
        {
            "objective.method": "ce",
            "student.model": network,
            "student.batch_size": batch,
            "student.compute_dtype": dtype,
        }
    )
    metadata = {"class_names": range(CLASSES), "train_examples": steps * batch}
    return spec.train_spec(configs.resolve(config), spec.STUDENT, metadata, None)


def random_examples(count: int) -> batches.Examples:
    """Returns random images and labels on the devices."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    split = Split(images, rng.integers(0, CLASSES, count, np.int32))
    return batches.put_split(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))


def timed_program(
    one: spec.TrainSpec, examples: batches.Examples, variant: Variant
) -> Callable[[], float]:
    """Returns a compiled function that trains for one epoch and returns the seconds it took."""
    specs = [dataclasses.replace(one, seed=seed) for seed in range(variant.students)]
    program = multi_student.make_program(specs, stacked=variant.layers == VMAPPED)
    states = tuple(step.init_state(each, SHAPE) for each in specs)
    order = epoch_order(len(examples.labels), seed=0, epoch=0)

    def train_epoch() -> float:
        nonlocal states
        start = time.perf_counter()
        for source, count in loop.iterate_calls(one.batches, examples, order, 0):
            states, _ = program(states, source, None, count)
        jax.block_until_ready(states)
        return time.perf_counter() - start

    train_epoch()  # compiles
    return train_epoch


def measure(one: spec.TrainSpec, counts: Sequence[int], rounds: int) -> dict[Variant, list[float]]:
    """Returns the seconds of an epoch in each round; `ALONE` is among the variants."""
    steps = one.batches.steps_per_epoch
    examples = random_examples(steps * one.batches.batch_size)
    several = sorted({*counts} - {1})
    variants = [ALONE, *itertools.starmap(Variant, itertools.product(several, (SEPARATE, VMAPPED)))]
    programs = {variant: timed_program(one, examples, variant) for variant in variants}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in programs}
    for _ in range(rounds):
        for variant, train_epoch in programs.items():
            seconds[variant].append(train_epoch())
    return seconds


def rows(network: str, dtype: str, seconds: Times, images: int) -> list[str]:
    """Returns the lines of a table for a network.

    Args:
        network: its name.
        dtype: of its computation.
        seconds: of an epoch.
        images: of an epoch.
    """
    lines = []
    for (students, layers), times in seconds.items():
        ratios = [students * one / all_ for one, all_ in zip(seconds[ALONE], times, strict=True)]
        rate = students * images / statistics.median(times)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        words = [network, dtype, str(students), layers if students > 1 else "-"]
        lines.append(f"| {' | '.join([*words, f'{rate:,.0f}', ratio])} |")
    return lines


def conditions(options: argparse.Namespace) -> str:
    """Returns the device, the versions and the command."""
    command = shlex.join(public_command("experiments.student_scaling"))
    return (
        f"{jax.devices()[0].device_kind}, {processor()}, jax {jax.__version__}, python "
        f"{sys.version.split()[0]}; batch size {options.batch}; medians over {options.rounds} "
        f"rounds of {options.steps} steps, in which the programs run in turn. `{command}`"
    )


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    small = ["resnet8", "alexnet_small"]
    arguments.add_argument("--networks", nargs="+", choices=MODELS, default=small)
    arguments.add_argument("--counts", nargs="+", type=int, default=[1, 3, 7, 21])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=128, help="images of a step")
    arguments.add_argument("--steps", type=int, default=4, help="of a timed run")
    arguments.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    arguments.add_argument("--out", type=pathlib.Path, default=None, help="the results page")
    return arguments


def main() -> None:
    """Measures, prints the table and writes it to a page."""
    options = parser().parse_args()
    tune_allocator()  # as in kdjax.main
    lines = [
        "| network | dtype | students | layers | images/s, all students | relative to one alone |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for network, dtype in itertools.product(options.networks, options.dtypes):
        one = train_spec(network, options.batch, dtype, options.steps)
        seconds = measure(one, options.counts, options.rounds)
        lines += rows(network, dtype, seconds, options.steps * options.batch)
        print("\n".join(lines[-len(seconds) :]), file=sys.stderr, flush=True)
    table = "\n".join(lines)
    page = f"# Many small students in one program\n\n{table}\n\n{conditions(options)}\n"
    if options.out:
        options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
