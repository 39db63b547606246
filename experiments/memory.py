"""Measures how `compiler.tune_allocator` changes time and memory of a training step on the CPU.

python experiments/memory.py --networks resnet18 resnet50 --batch=64 --rounds=2

Each measurement runs in its own process, without and with the tuned allocator in turn: training
steps on random images.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

STEPS = 5


def measure_here(network: str, batch: int) -> dict[str, float]:
    """Returns the median `seconds` of a step, and the peak memory of this process in `MiB`."""
    import jax
    import numpy as np

    from kdjax import config as configs
    from kdjax.data import Split, batches
    from kdjax.data.augment import epoch_order
    from kdjax.training import loop, multi_student, spec, step

    config = configs.base()
    config.teacher.model, config.teacher.batch_size = network, batch
    metadata = {"class_names": range(10), "train_examples": STEPS * batch}
    train_spec = spec.train_spec(configs.resolve(config), spec.TEACHER, metadata, None)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * batch, 32, 32, 3), np.uint8)
    split = Split(images, rng.integers(0, 10, STEPS * batch, np.int32))
    examples = batches.put_split(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    program = multi_student.make_program([train_spec])
    states: multi_student.States = (step.init_state(train_spec, (32, 32, 3)),)
    order, seconds = epoch_order(STEPS * batch, seed=0, epoch=0), []
    for source, count in loop.iterate_calls(train_spec.batches, examples, order, 0):
        start = time.perf_counter()
        states, _ = jax.block_until_ready(program(states, source, None, count))
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    # The median ignores the first step, which compiles.
    return {"seconds": statistics.median(seconds), "MiB": peak}


def measure(network: str, batch: int, tuned: bool) -> dict[str, float]:
    """Returns the result of `measure_here` in a new process."""
    command = [sys.executable, __file__, f"--one={network}", f"--batch={batch}"]
    done = subprocess.run(command + ["--tuned"] * tuned, check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def table_row(network: str, batch: int, rounds: int) -> str:
    """Returns the row of a network in the Markdown table."""
    pairs = [[measure(network, batch, tuned) for tuned in (False, True)] for _ in range(rounds)]
    ratios = ", ".join(f"{default['seconds'] / tuned['seconds']:.2f}" for default, tuned in pairs)
    peaks = (statistics.median(pair[index]["MiB"] for pair in pairs) for index in (0, 1))
    return f"| {network} | {ratios} | {' | '.join(f'{peak:,.0f}' for peak in peaks)} |"


def main() -> None:
    """Prints a Markdown table; memory is the median over rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--batch", type=int, default=64, help="batch size")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        from kdjax.runtime import compiler

        if options.tuned:
            compiler.tune_allocator()
        print(json.dumps(measure_here(options.one, options.batch)))
        return
    print("| network | speed-up of each round | MiB, default | MiB, tuned |\n|---|---|---|---|")
    for network in options.networks:
        print(table_row(network, options.batch, options.rounds))


if __name__ == "__main__":
    main()
