"""What `compiler.keep_memory` is worth on this machine's CPU: the time and the memory of a step.

python experiments/memory.py --networks resnet18 resnet50 --batch=64 --rounds=2

Each run is a process of its own, with and without in turn: plain training steps on random images.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

STEPS = 5


def trained(network: str, batch: int) -> dict[str, float]:
    """Returns the median seconds of a step, and the MiB that the process has held at most."""
    import jax
    import numpy as np

    from kdjax import config as configs
    from kdjax import loop, stage, step, together
    from kdjax.data import Split
    from kdjax.data.augment import epoch_order

    config = configs.base()
    config.teacher.model, config.teacher.batch_size = network, batch
    about = {"class_names": range(10), "train_examples": STEPS * batch}
    plan = stage.recipe(configs.resolve(config), stage.TEACHER, about, None)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * batch, 32, 32, 3), np.uint8)
    split = Split(images, rng.integers(0, 10, STEPS * batch, np.int32))
    examples = step.to_device(split, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    run = together.train_steps([plan])
    states: step.States = (step.init_state(plan, (32, 32, 3)),)
    order, seconds = epoch_order(STEPS * batch, seed=0, epoch=0), []
    for fed, count in loop.calls(plan, examples, order, 0):
        begun = time.perf_counter()
        states, _ = jax.block_until_ready(run(states, fed, None, count))
        seconds.append(time.perf_counter() - begun)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": statistics.median(seconds), "MiB": held}  # the first one compiles


def measured(network: str, batch: int, keep: bool) -> dict[str, float]:
    """Returns what `trained` returns in a process of its own."""
    command = [sys.executable, __file__, f"--one={network}", f"--batch={batch}"]
    done = subprocess.run(command + ["--keep"] * keep, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints a Markdown table: medians over rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        from kdjax import compiler

        if options.keep:
            compiler.keep_memory()
        print(json.dumps(trained(options.one, options.batch)))
        return
    print("| network | times as fast (each round) | MiB without | MiB with |\n|---|---|---|---|")
    for network in options.networks:
        pairs = [
            [measured(network, options.batch, keep) for keep in (False, True)]
            for _ in range(options.rounds)
        ]
        ratios = ", ".join(f"{plain['seconds'] / kept['seconds']:.2f}" for plain, kept in pairs)
        held = (statistics.median(pair[keep]["MiB"] for pair in pairs) for keep in (False, True))
        print(f"| {network} | {ratios} | {' | '.join(f'{each:,.0f}' for each in held)} |")


if __name__ == "__main__":
    main()
