"""Times all methods trained in one program against each method trained alone.

python -m experiments.many_students --rounds=5 --batch=128 [--size=laptop]

ResNet18 -> AlexNet on random images of 32x32; the teacher runs in every step. In each round every
program trains for a few steps, in turn. A ratio is the time of the single program divided by the
sum of the times of the others in that round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from kdjax import config as configs
from kdjax import models, objectives
from kdjax.data import Split, batches
from kdjax.data.augment import epoch_order
from kdjax.runs import students
from kdjax.training import loop, multi_student, spec, step
from kdjax.training import teacher as teachers

CLASSES, SHAPE, STEPS = 10, (32, 32, 3), 2


def train_specs(batch: int, size: str) -> tuple[list[spec.TrainSpec], teachers.OnlineTeacher]:
    """Returns a spec for each method, and their teacher with initial weights."""
    config = configs.base()
    config.size = size
    config.teacher.batch_size = config.student.batch_size = batch
    config.students = tuple({"objective.method": method} for method in objectives.METHODS)
    config = configs.resolve(config)
    metadata = {"class_names": range(CLASSES), "train_examples": STEPS * batch}
    teacher_spec = spec.train_spec(config, spec.TEACHER, metadata, None)
    variables = step.init_state(teacher_spec, SHAPE).variables
    model, folded = models.fold_batch_norm(teacher_spec.model, variables)
    student_specs = []
    for student_config in students.expand(config).values():
        method = objectives.METHODS[student_config.objective.method]
        teacher_model = model if method.needs_teacher else None
        student_specs.append(spec.train_spec(student_config, spec.STUDENT, metadata, teacher_model))
    return student_specs, teachers.OnlineTeacher(folded)


def random_examples(batch: int) -> batches.Examples:
    """Returns random images and labels for STEPS batches, on the devices."""
    rng, count = np.random.default_rng(0), STEPS * batch
    split = Split(
        rng.integers(0, 256, (count, *SHAPE), np.uint8), rng.integers(0, CLASSES, count, np.int32)
    )
    return batches.put_split(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))


def timed_program(
    specs: list[spec.TrainSpec], teacher: teachers.OnlineTeacher, examples: batches.Examples
) -> Callable[[], float]:
    """Returns a compiled function that trains for one epoch and returns the seconds it took."""
    program = multi_student.make_program(specs)
    states = tuple(step.init_state(student_spec, SHAPE) for student_spec in specs)
    order = epoch_order(len(examples.labels), seed=0, epoch=0)

    def train_epoch() -> float:
        nonlocal states
        start = time.perf_counter()
        for source, count in loop.iterate_calls(specs[0].batches, examples, order, 0):
            states, _ = program(states, source, teacher, count)
        jax.block_until_ready(states)
        return time.perf_counter() - start

    train_epoch()  # compiles
    return train_epoch


def main() -> None:
    """Prints the ratio of every round, then their median and range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128, help="batch size")
    parser.add_argument("--size", default="paper", help="the config's `size`: paper or laptop")
    options = parser.parse_args()
    specs, teacher = train_specs(options.batch, options.size)
    examples = random_examples(options.batch)
    alone = [timed_program([student_spec], teacher, examples) for student_spec in specs]
    together = timed_program(specs, teacher, examples)
    ratios = []
    for _ in range(options.rounds):
        seconds_alone = [train_epoch() for train_epoch in alone]
        ratios.append(together() / sum(seconds_alone))
        sum_alone = " + ".join(f"{seconds:.2f}" for seconds in seconds_alone)
        print(f"{ratios[-1]:.3f} of {sum_alone} s")
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{len(specs)} methods in one program: {median:.3f} ({low:.3f} to {high:.3f}) of the time"
    )


if __name__ == "__main__":
    main()
