"""Kills a training run at random moments, restarts it, and compares its end with one left alone.

python experiments/faults.py --kills=50 --out=runs/faults
python experiments/faults.py --kills=10 --processes=2 --out=runs/faults_2

A run is killed, restarted and killed again until it comes to its end; then the next one begins,
until there have been enough kills. Each second kill waits for a save. With several processes one of
them is killed; the others have to end by themselves. What is compared: every array of the last
checkpoint of teacher and student, and the bytes of predictions and results.
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
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# Many small epochs, each with a save: what is tried here is the stopping, not the learning.
FLAGS = {
    "teacher.width": 2, "teacher.epochs": 3, "student.width": 2, "student.epochs": 8,
    "student.batch_size": 16, "student.average": "ema", "student.average_start": 0.3,
    "student.norm_batches": 2, "objective.pretrain_epochs": 1,
}  # fmt: skip
GRACE_SECONDS = 60  # within which a signal, or the death of another process, ends a process
DONE, PREEMPTED = 0, 75


class Fault(NamedTuple):
    """One kill.

    Attributes:
        run: which disturbed run.
        signal: SIGKILL or SIGTERM.
        process: which was killed.
        second: of its life.
        at_step: the newest checkpoint then.
        saving: whether a checkpoint was being written.
        statuses: of all processes of the run.
        ended_in: seconds from the signal to the end of the last process.
    """

    run: int
    signal: str
    process: int
    second: float
    at_step: str
    saving: bool
    statuses: list[int]
    ended_in: float


def start(folder: pathlib.Path, processes: int, flags: list[str]) -> list[subprocess.Popen]:
    """Starts the processes of a run, each with one CPU device; their output goes beside it."""
    command = [sys.executable, "-m", "kdjax.main", "--config=configs/digits.py"]
    command += [f"--workdir={folder}", *(f"--config.{key}={value}" for key, value in FLAGS.items())]
    environment = {
        **os.environ,
        # Each start compiles what it does not find compiled: that is to be quick.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.parent / "compiled"))
    together = [] if processes == 1 else [f"--coordinator=127.0.0.1:{free_port()}"]
    started = []
    for number in range(processes):
        which = [f"--num_processes={processes}", f"--process_id={number}"] if together else []
        with folder.with_name(f"{folder.name}-{number}.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*command, *flags, *together, *which],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(processes: list[subprocess.Popen], seconds: float) -> list[int]:
    """Returns the statuses of processes, once all have ended.

    Raises:
        SystemExit: if one of them does not in time.
    """
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in processes]
    except subprocess.TimeoutExpired:
        sys.exit(f"a process has not ended within {seconds} s")
    finally:
        for process in processes:
            process.kill()


def undisturbed(folder: pathlib.Path, processes: int, flags: list[str]) -> float:
    """Runs to the end; returns how long that took."""
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.monotonic()
    require_done(folder, end(start(folder, processes, flags), 600))
    return time.monotonic() - begun


def require_done(folder: pathlib.Path, statuses: list[int]) -> None:
    """Ends with the path of the log where a run did not come to its end."""
    if set(statuses) != {DONE}:
        sys.exit(f"{folder} ended with {statuses}: see {folder}-*.log")


def checkpoint_folders(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields what lies among the checkpoints of teacher and student."""
    for stage in ("teacher/checkpoints", "checkpoints"):
        with contextlib.suppress(OSError):
            yield from (folder / stage).iterdir()


def saving(folder: pathlib.Path) -> bool:
    """Returns whether a checkpoint is being written: Orbax renames it when it is whole."""
    return any("tmp" in path.name for path in checkpoint_folders(folder))


def newest(folder: pathlib.Path) -> str:
    """Returns stage and step of the newest checkpoint."""
    steps = {
        stage: [int(p.name) for p in (folder / stage / "checkpoints").glob("[0-9]*[0-9]")]
        for stage in (".", "teacher")
    }
    for stage, name in ((".", "student"), ("teacher", "teacher")):
        if steps[stage]:
            return f"{name} {max(steps[stage])}"
    return "none"


def await_moment(
    folder: pathlib.Path, processes: list[subprocess.Popen], rng: random.Random, whole: float
) -> None:
    """Waits until a random time, or until a random time within the next save after it."""
    in_save, until = rng.random() < 0.5, time.monotonic() + rng.uniform(0, 0.7 * whole)
    while all(process.poll() is None for process in processes):
        if time.monotonic() >= until and (not in_save or saving(folder)):
            time.sleep(rng.uniform(0, 0.05) if in_save else 0)
            return
        time.sleep(0.001)


def disturb(
    folder: pathlib.Path, processes: list[subprocess.Popen], rng: random.Random, whole: float
) -> Fault | None:
    """Kills one of the processes at a random moment; None if the run was over before."""
    begun = time.monotonic()
    await_moment(folder, processes, rng, whole)
    victim, how = rng.randrange(len(processes)), rng.choice((signal.SIGKILL, signal.SIGTERM))
    if processes[victim].poll() is not None:
        require_done(folder, end(processes, GRACE_SECONDS))
        return None
    processes[victim].send_signal(how)
    killed, at_save, at_step = time.monotonic(), saving(folder), newest(folder)
    statuses = end(processes, GRACE_SECONDS)
    taken = round(killed - begun, 1), round(time.monotonic() - killed, 1)
    if set(statuses) == {DONE}:  # the signal came too late to stop anything
        return None
    run = int(folder.name.removeprefix("run-"))
    return Fault(run, how.name, victim, taken[0], at_step, at_save, statuses, taken[1])


def fingerprint(folder: pathlib.Path) -> dict[str, str]:
    """Returns a checksum of all that has to be the same, by name."""
    import jax
    import numpy as np
    from ml_collections import ConfigDict

    from kdjax import stage, step, workdir
    from kdjax.checkpoint import Checkpoints

    found = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("predictions/dev.npz", "predictions/test.npz", "results.json")
    }
    for home in (folder, folder / "teacher"):
        about = workdir.read(home)
        recipe = stage.recipe(ConfigDict(about["config"]), about["stage"], about["dataset"], None)
        template = step.abstract_state(recipe, tuple(about["dataset"]["image_shape"]))
        with Checkpoints(home / "checkpoints", {}) as checkpoints:
            last = checkpoints.latest(template)
        assert last is not None
        total = hashlib.sha256()
        for leaf in jax.tree.leaves(last.state):
            total.update(np.asarray(leaf).tobytes())
        found[f"{about['stage']}, step {last.step}"] = total.hexdigest()
    return found


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Returns the names under which two fingerprints differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def campaign(options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """Disturbs runs until there have been enough kills; returns all that was seen."""
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    whole = undisturbed(options.out / "undisturbed", options.processes, flags)
    expected = fingerprint(options.out / "undisturbed")
    faults: list[Fault] = []
    different: dict[str, list[str]] = {}
    ended = 0
    while len(faults) < options.kills:
        folder = options.out / f"run-{ended}"
        shutil.rmtree(folder, ignore_errors=True)
        finished, begun, before = False, time.monotonic(), len(faults)
        while not finished:
            processes = start(folder, options.processes, flags)
            if len(faults) < options.kills:
                fault = disturb(folder, processes, rng, whole)
                finished = fault is None
                if fault:
                    faults.append(fault)
                    print(len(faults), fault, flush=True)
                elif len(faults) == before:  # nothing to compile, unlike the first
                    whole = time.monotonic() - begun
            else:
                require_done(folder, end(processes, 600))
                finished = True
        ended += 1
        different[folder.name] = differing(expected, fingerprint(folder))
        print(folder.name, "differs:" if different[folder.name] else "is the same", flush=True)
    return {"undisturbed_seconds": round(whole, 1), "faults": faults, "different": different}


def table(found: Mapping[str, Any]) -> str:
    """Returns the Markdown table of a campaign: what was killed how often, and what came of it."""
    same = [run for run, names in found["different"].items() if not names]
    groups = Counter(
        (fault.signal, "in a save" if fault.saving else "elsewhere", str(sorted(fault.statuses)))
        for fault in found["faults"]
    )
    recovered = sum(f"run-{fault.run}" in same for fault in found["faults"])
    slowest = max(fault.ended_in for fault in found["faults"])
    lines = ["| signal | when | statuses | kills |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(key)} | {count} |" for key, count in sorted(groups.items())]
    return "\n".join(
        [
            *lines,
            "",
            f"{recovered} of {len(found['faults'])} kills recovered from; {len(same)} of "
            f"{len(found['different'])} runs ended in the bits of the undisturbed one; the last "
            f"process ended at most {slowest} s after the signal.",
        ]
    )


def main() -> None:
    """Prints the table; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options, flags = parser.parse_known_args()
    options.out = options.out.absolute()
    found = campaign(options, flags)
    told = {**found, "faults": [fault._asdict() for fault in found["faults"]]}
    (options.out / "faults.json").write_text(json.dumps(told, indent=2) + "\n")
    print(table(found))
    sys.exit(any(found["different"].values()))


if __name__ == "__main__":
    main()
