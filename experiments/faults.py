"""Kills training runs at random moments, resumes them, and compares them with an unkilled run.

python experiments/faults.py --kills=50 --out=runs/faults [FLAGS]
python experiments/faults.py --kills=10 --processes=2 --out=runs/faults_2 [FLAGS]

A run is killed and resumed until it finishes; then the next run starts, until the number of kills
is reached. On average every second kill waits for a checkpoint save. With several processes one of
them is killed, and the others must exit by themselves. Compared with the uninterrupted run: every
array of the last checkpoint of teacher and student, and the bytes of predictions and results.
FLAGS are passed to kdjax.main.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# Small networks and many short epochs, each with a save: only stopping and resuming are tested.
FLAGS = {
    "teacher.width": 2, "teacher.epochs": 3, "student.width": 2, "student.epochs": 8,
    "student.batch_size": 16, "student.average": "ema", "student.average_start": 0.3,
    "student.bn_batches": 2, "objective.pretrain_epochs": 1,
}  # fmt: skip
GRACE_SECONDS = 60  # in which a process must exit after a signal or the death of another process
DONE = 0  # the exit status of a finished run


class Fault(NamedTuple):
    """One kill.

    Attributes:
        run: number of the killed run.
        signal: SIGKILL or SIGTERM.
        process: number of the killed process.
        second: seconds from the start of the process to the signal.
        at_step: stage and step of the newest checkpoint at the signal.
        saving: whether a checkpoint was being written at the signal.
        statuses: exit statuses of all processes of the run.
        ended_in: seconds from the signal to the exit of the last process.
    """

    run: int
    signal: str
    process: int
    second: float
    at_step: str
    saving: bool
    statuses: list[int]
    ended_in: float


def start(folder: pathlib.Path, processes: int, flags: Sequence[str]) -> list[subprocess.Popen]:
    """Starts the processes of a run, each with one CPU device; logs are next to the workdir."""
    command = [sys.executable, "-m", "kdjax.main", "--config=configs/digits.py"]
    command += [f"--workdir={folder}", *(f"--config.{key}={value}" for key, value in FLAGS.items())]
    # Each start compiles what is not in the cache; without optimization this is fast.
    xla_flags = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {xla_flags}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.parent / "compiled"))
    cluster = [] if processes == 1 else [f"--coordinator=127.0.0.1:{free_port()}"]
    started = []
    for number in range(processes):
        member = [f"--num_processes={processes}", f"--process_id={number}"] if cluster else []
        with folder.with_name(f"{folder.name}-{number}.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*command, *flags, *cluster, *member],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def free_port() -> int:
    """Returns a free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait(processes: Sequence[subprocess.Popen], seconds: float) -> list[int]:
    """Waits for processes and returns their exit statuses.

    Raises:
        SystemExit: if one of them does not exit in time.
    """
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in processes]
    except subprocess.TimeoutExpired:
        sys.exit(f"faults.py: error: a process did not exit within {seconds} s")
    finally:
        for process in processes:
            process.kill()


def run_uninterrupted(folder: pathlib.Path, processes: int, flags: Sequence[str]) -> float:
    """Runs once without a kill and returns the seconds it took."""
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    require_done(folder, wait(start(folder, processes, flags), 600))
    return time.monotonic() - begin


def require_done(folder: pathlib.Path, statuses: Sequence[int]) -> None:
    """Exits with the path of the log if a process failed."""
    if set(statuses) != {DONE}:
        sys.exit(f"faults.py: error: {folder} ended with statuses {statuses}: see {folder}-*.log")


def checkpoint_folders(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the entries of the checkpoint directories of teacher and student."""
    for checkpoints in ("teacher/checkpoints", "checkpoints"):
        with contextlib.suppress(OSError):
            yield from (folder / checkpoints).iterdir()


def is_saving(folder: pathlib.Path) -> bool:
    """Returns whether a checkpoint is being written: Orbax renames it when it is complete."""
    return any("tmp" in path.name for path in checkpoint_folders(folder))


def newest_checkpoint(folder: pathlib.Path) -> str:
    """Returns stage and step of the newest checkpoint, or `none`."""
    for stage, workdir in (("student", folder), ("teacher", folder / "teacher")):
        names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
        if steps := [int(name) for name in names if name.isdigit()]:  # without those being written
            return f"{stage} {max(steps)}"
    return "none"


def wait_for_moment(
    folder: pathlib.Path, processes: Sequence[subprocess.Popen], rng: random.Random, seconds: float
) -> None:
    """Waits for a random time; with probability 1/2 it then waits for a moment in the next save.

    Args:
        folder: the workdir.
        processes: of the run; returns early if one of them exits.
        rng: draws the moment.
        seconds: duration of an uninterrupted run.
    """
    during_save, until = rng.random() < 0.5, time.monotonic() + rng.uniform(0, 0.7 * seconds)
    while all(process.poll() is None for process in processes):
        if time.monotonic() >= until and (not during_save or is_saving(folder)):
            time.sleep(rng.uniform(0, 0.05) if during_save else 0)
            return
        time.sleep(0.001)


def kill_one(
    folder: pathlib.Path, processes: Sequence[subprocess.Popen], rng: random.Random, seconds: float
) -> Fault | None:
    """Kills one process at a random moment; returns None if the run finished before.

    Args:
        folder: the workdir.
        processes: of the run.
        rng: draws moment, process and signal.
        seconds: duration of an uninterrupted run.
    """
    begin = time.monotonic()
    wait_for_moment(folder, processes, rng, seconds)
    victim, signal_number = (
        rng.randrange(len(processes)), rng.choice((signal.SIGKILL, signal.SIGTERM))
    )  # fmt: skip
    if processes[victim].poll() is not None:
        require_done(folder, wait(processes, GRACE_SECONDS))
        return None
    processes[victim].send_signal(signal_number)
    killed, saving, at_step = time.monotonic(), is_saving(folder), newest_checkpoint(folder)
    statuses = wait(processes, GRACE_SECONDS)
    if set(statuses) == {DONE}:  # the run finished before it received the signal
        return None
    return Fault(
        run=int(folder.name.removeprefix("run-")),
        signal=signal_number.name,
        process=victim,
        second=round(killed - begin, 1),
        at_step=at_step,
        saving=saving,
        statuses=statuses,
        ended_in=round(time.monotonic() - killed, 1),
    )


def fingerprint(folder: pathlib.Path) -> dict[str, str]:
    """Returns the checksums of results, predictions and last checkpoints of a run, by name."""
    checksums = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("predictions/dev.npz", "predictions/test.npz", "results.json")
    }
    return {**checksums, **dict(map(checkpoint_checksum, (folder, folder / "teacher")))}


def checkpoint_checksum(folder: pathlib.Path) -> tuple[str, str]:
    """Returns stage and step of a workdir's last checkpoint, and the checksum of its arrays."""
    import jax
    import numpy as np

    from kdjax.runs import restore, workdir
    from kdjax.training import spec, step
    from kdjax.training.checkpoint import Checkpoints

    metadata = workdir.read_metadata(folder)
    train_spec = spec.train_spec(
        restore.load_config(folder), metadata["stage"], metadata["dataset"]
    )
    template = step.abstract_state(train_spec, tuple(metadata["dataset"]["image_shape"]))
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        last = checkpoints.latest(template)
    assert last is not None
    checksum = hashlib.sha256()
    for leaf in jax.tree.leaves(last.state):
        checksum.update(np.asarray(leaf).tobytes())
    return f"{metadata['stage']}, step {last.step}", checksum.hexdigest()


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Returns the names for which two fingerprints differ."""
    return sorted(name for name in {*a, *b} if a.get(name) != b.get(name))


def campaign(options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """Kills runs until the number of kills is reached.

    Returns:
        `undisturbed_seconds`, the duration of an uninterrupted run; `faults`, the kills; and
        `different`, the differing names of `fingerprint` by run.
    """
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    seconds = run_uninterrupted(options.out / "undisturbed", options.processes, flags)
    expected = fingerprint(options.out / "undisturbed")
    faults: list[Fault] = []
    different: dict[str, list[str]] = {}
    while len(faults) < options.kills:
        folder = options.out / f"run-{len(different)}"
        shutil.rmtree(folder, ignore_errors=True)
        seconds = kill_until_finished(folder, options, flags, rng, faults, seconds)
        different[folder.name] = differing(expected, fingerprint(folder))
        outcome = "differs:" if different[folder.name] else "is bit-identical"
        print(folder.name, outcome, *different[folder.name], flush=True)
    return {"undisturbed_seconds": round(seconds, 1), "faults": faults, "different": different}


def kill_until_finished(
    folder: pathlib.Path,
    options: argparse.Namespace,
    flags: Sequence[str],
    rng: random.Random,
    faults: list[Fault],
    seconds: float,
) -> float:
    """Kills and resumes a run until it finishes, and appends each kill to `faults`.

    Args:
        folder: the workdir.
        options: of the command line.
        flags: of kdjax.main.
        rng: draws moments, processes and signals.
        faults: the kills so far; after `options.kills` the run is not killed again.
        seconds: duration of an uninterrupted run.

    Returns:
        The duration of this run if it was never killed, else `seconds`. Unlike the first run, it
        finds its programs in the compilation cache, as far as they are stored.
    """
    begin, kills_before = time.monotonic(), len(faults)
    while True:
        processes = start(folder, options.processes, flags)
        if len(faults) == options.kills:
            require_done(folder, wait(processes, 600))
            return seconds
        fault = kill_one(folder, processes, rng, seconds)
        if fault is None:
            return time.monotonic() - begin if len(faults) == kills_before else seconds
        faults.append(fault)
        print(len(faults), fault, flush=True)


def table(results: Mapping[str, Any]) -> str:
    """Returns the Markdown table of a campaign: kills by signal, moment and exit statuses."""
    identical = [run for run, names in results["different"].items() if not names]
    groups = Counter(
        (fault.signal, "yes" if fault.saving else "no", str(sorted(fault.statuses)))
        for fault in results["faults"]
    )
    recovered = sum(f"run-{fault.run}" in identical for fault in results["faults"])
    slowest = max(fault.ended_in for fault in results["faults"])
    lines = ["| signal | during a save | exit statuses | kills |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(group)} | {count} |" for group, count in sorted(groups.items())]
    return "\n".join(
        [
            *lines,
            "",
            f"Recovered from {recovered} of {len(results['faults'])} kills; {len(identical)} of "
            f"{len(results['different'])} runs are bit-identical to the uninterrupted run; the "
            f"last process exited at most {slowest} s after the signal.",
        ]
    )


def main() -> None:
    """Writes `faults.json` and prints the table; exit status 1 if a run differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--processes", type=int, default=1, help="processes of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the workdirs")
    options, flags = parser.parse_known_args()
    options.out = options.out.absolute()
    results = campaign(options, flags)
    faults = [fault._asdict() for fault in results["faults"]]
    content = json.dumps({**results, "faults": faults}, indent=2)
    (options.out / "faults.json").write_text(content + "\n")
    print(table(results))
    sys.exit(any(results["different"].values()))


if __name__ == "__main__":
    main()
