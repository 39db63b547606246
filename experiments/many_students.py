"""Times the methods trained in one program against each of them alone: ResNet18 -> AlexNet.

python -m experiments.many_students --rounds=5 --batch=128 [--size=laptop]

Random images of 32x32; the teacher is asked in every step. One round takes a few steps of each
program in turn; a ratio is the time of the one program over the sum of the others in that round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from kdjax import config as configs
from kdjax import loop, models, objectives, stage, step, students, together
from kdjax.data import Split
from kdjax.data.augment import epoch_order

CLASSES, SHAPE, STEPS = 10, (32, 32, 3), 2


def recipes(batch: int, size: str) -> tuple[list[step.Recipe], step.Live]:
    """Returns the recipe of each method, and their teacher, untrained."""
    config = configs.base()
    config.size = size
    config.teacher.batch_size = config.student.batch_size = batch
    config.students = tuple({"objective.method": method} for method in objectives.METHODS)
    config = configs.resolve(config)
    about = {"class_names": range(CLASSES), "train_examples": STEPS * batch}
    taught_by = stage.recipe(config, stage.TEACHER, about, None)
    variables = step.init_state(taught_by, SHAPE).variables
    model, folded = models.fold(taught_by.model, variables)
    found = []
    for own in students.expand(config).values():
        asks = own.objective.method in objectives.WITH_TEACHER
        found.append(stage.recipe(own, stage.STUDENT, about, model if asks else None))
    return found, step.Live(folded)


def program(
    plans: list[step.Recipe], teacher: step.Live, examples: step.Examples
) -> Callable[[], float]:
    """Returns what trains the networks for an epoch of STEPS batches, and says in how long."""
    run = together.train_steps(plans)
    states = tuple(step.init_state(plan, SHAPE) for plan in plans)
    order = epoch_order(len(examples.labels), seed=0, epoch=0)

    def timed() -> float:
        nonlocal states
        begun = time.perf_counter()
        for fed, count in loop.calls(plans[0], examples, order, 0):
            states, _ = run(states, fed, teacher, count)
        jax.block_until_ready(states)
        return time.perf_counter() - begun

    timed()  # compiles
    return timed


def main() -> None:
    """Prints the ratio of every round, their median and range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", default="paper")
    options = parser.parse_args()
    plans, teacher = recipes(options.batch, options.size)
    rng = np.random.default_rng(0)
    count = STEPS * options.batch
    split = Split(
        rng.integers(0, 256, (count, *SHAPE), np.uint8), rng.integers(0, CLASSES, count, np.int32)
    )
    examples = step.to_device(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    alone = [program([plan], teacher, examples) for plan in plans]
    all_of_them = program(plans, teacher, examples)
    ratios = []
    for _ in range(options.rounds):
        each = [timed() for timed in alone]
        ratios.append(all_of_them() / sum(each))
        print(f"{ratios[-1]:.3f} of {' + '.join(f'{seconds:.2f}' for seconds in each)} s")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{len(plans)} methods in one program: {middle:.3f} ({low:.3f} to {high:.3f}) of the time"
    )


if __name__ == "__main__":
    main()
