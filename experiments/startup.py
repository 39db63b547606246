"""Measures the time of the digits config from the command to its first step, cold and warm.

python experiments/startup.py --rounds=5 [FLAGS]

Cold: with an empty compilation cache. Warm: the same command again in another workdir. Whole: the
command from an empty cache to its end, with the report. In addition, the time to import
kdjax.losses is compared with importing only jax and optax. FLAGS are passed to kdjax.main.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def seconds_to_first_step(workdir: pathlib.Path, cache: pathlib.Path, flags: list[str]) -> float:
    """Returns the seconds until the first step is logged; then the run is killed."""
    start = time.monotonic()
    process = subprocess.Popen(
        [*_command(workdir, flags), "--config.log_every=1"],
        env=_environment(cache),
        stdout=subprocess.DEVNULL,
    )
    log = workdir / "teacher" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            sys.exit("startup.py: error: the command ended before its first step")
        time.sleep(0.01)
    seconds = time.monotonic() - start
    process.kill()
    process.wait()
    return seconds


def seconds_to_end(workdir: pathlib.Path, cache: pathlib.Path, flags: list[str]) -> float:
    """Returns the seconds that the whole command takes."""
    start = time.monotonic()
    command, environment = _command(workdir, flags), _environment(cache)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def _command(workdir: pathlib.Path, flags: list[str]) -> list[str]:
    command = [sys.executable, "-m", "kdjax.main", "--config=configs/digits.py", *flags]
    return [*command, f"--workdir={workdir}"]


def _environment(cache: pathlib.Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


def import_seconds(code: str) -> float:
    """Returns the seconds that a new Python process takes to run import statements."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - start


def table_row(name: str, values: list[float], unit: str) -> str:
    """Returns a row with median and range."""
    low, median, high = min(values), statistics.median(values), max(values)
    return f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} {unit} |"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options, flags = parser.parse_known_args()
    cold, warm, whole, ratios = [], [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            cold.append(seconds_to_first_step(folder / "cold", folder / "cache", flags))
            # Fills the cache with what the killed first run did not compile.
            seconds_to_first_step(folder / "fill", folder / "cache", flags)
            warm.append(seconds_to_first_step(folder / "warm", folder / "cache", flags))
            whole.append(seconds_to_end(folder / "whole", folder / "empty_cache", flags))
        baseline = import_seconds("import jax, optax")
        ratios.append(import_seconds("import kdjax.losses") / baseline)
    print("| what | median | range |\n|---|---|---|")
    print(table_row("cold: from the command to the first step", cold, "s"))
    print(table_row("warm: from the command to the first step", warm, "s"))
    print(table_row("cold: the whole command", whole, "s"))
    print(table_row("import kdjax.losses, relative to import jax, optax", ratios, "times"))


if __name__ == "__main__":
    main()
