"""Measures how long the digits config takes from the command to its first step, cold and warm.

python experiments/startup.py --rounds=5 [FLAGS]

Cold: nothing compiled is kept yet; warm: the same command again, in another workdir. Beside it,
importing the losses against importing jax and optax alone. FLAGS go to kdjax.main as they are.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def first_step(workdir: pathlib.Path, cache: pathlib.Path, flags: list[str]) -> float:
    """Returns the seconds until the first step is logged; the run is stopped then."""
    command = [sys.executable, "-m", "kdjax.main", "--config=configs/digits.py", *flags]
    begun = time.monotonic()
    process = subprocess.Popen(
        [*command, "--config.log_every=1", f"--workdir={workdir}"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    lines = workdir / "teacher" / "metrics.jsonl"
    while not (lines.exists() and lines.stat().st_size):
        if process.poll() is not None:
            sys.exit("the command has ended before its first step")
        time.sleep(0.01)
    taken = time.monotonic() - begun
    process.kill()
    process.wait()
    return taken


def importing(code: str) -> float:
    """Returns the seconds that a new Python takes for some imports."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - begun


def told(name: str, seconds: list[float], unit: str) -> str:
    """Returns a row: median and range."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} {unit} |"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options, flags = parser.parse_known_args()
    cold, warm, ratios = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            cold.append(first_step(folder / "cold", folder / "cache", flags))
            first_step(folder / "once more", folder / "cache", flags)
            warm.append(first_step(folder / "warm", folder / "cache", flags))
        plain = importing("import jax, optax")
        ratios.append(importing("import kdjax.losses") / plain)
    print("| what | median | range |\n|---|---|---|")
    print(told("cold: from the command to the first step", cold, "s"))
    print(told("warm", warm, "s"))
    print(told("import kdjax.losses, beside jax and optax alone", ratios, "times"))


if __name__ == "__main__":
    main()
