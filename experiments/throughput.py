"""Measures images per second of training, on random images of CIFAR-10's size on the devices.

python experiments/throughput.py --network=resnet18 [--batch=512] [--dtype=bfloat16] [--students=1]

A call runs 50 steps on an accelerator and one on a CPU; the second call is timed, the first one
compiles. Several students have the same structure and see the same batches.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

from kdjax import config as configs
from kdjax.data import Split, batches
from kdjax.data.augment import epoch_order
from kdjax.models import DTYPES, MODELS
from kdjax.training import multi_student, spec, step

IMAGES, CLASSES, SHAPE = 45_000, 10, (32, 32, 3)


def measure(network: str, batch: int, dtype: str, students: int) -> tuple[float, float]:
    """Returns the images per second of all students together, and the seconds of the first call."""
    config = configs.base()
    config.update_from_flattened_dict(
        {
            "objective.method": "ce",
            "student.model": network,
            "student.batch_size": batch,
            "student.compute_dtype": dtype,
        }
    )
    metadata = {"class_names": range(CLASSES), "train_examples": IMAGES}
    one = spec.train_spec(configs.resolve(config), spec.STUDENT, metadata, None)
    specs = [dataclasses.replace(one, seed=seed) for seed in range(students)]
    states = tuple(step.init_state(each, SHAPE) for each in specs)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, *SHAPE), np.uint8)
    split = Split(images, rng.integers(0, CLASSES, IMAGES, np.int32))
    examples = batches.put_split(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    source = batches.DeviceSplit(examples, epoch_order(IMAGES, seed=0, epoch=0))
    program, count = multi_student.make_program(specs), multi_student.steps_per_call(examples)
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        states, metrics = program(states, source, None, count)
        jax.block_until_ready(metrics)
        seconds.append(time.monotonic() - start)
    return count * batch * students / seconds[1], seconds[0]


def main() -> None:
    """Prints the device and the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=MODELS, required=True)
    parser.add_argument("--batch", type=int, default=512, help="images of a step")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--students", type=int, default=1, help="trained in one program")
    options = parser.parse_args()
    rate, first = measure(options.network, options.batch, options.dtype, options.students)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {options}")
    print(f"{rate:,.0f} images/s; first call, with compilation: {first:.1f} s")


if __name__ == "__main__":
    main()
