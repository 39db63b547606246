"""Several processes of one run on this machine, each with its own devices."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import time
from typing import Any

import pytest
from support import commands
from support.commands import ROOT
from support.forked import Forked
from support.tiny_network import TINY_NETWORK

TINY = ("--config=configs/digits.py", "--config.data.limit=64", "--config.log_every=1",
        *(f"--config.{stage}.{field}" for stage in ("teacher", "student")
          for field in (f"model={TINY_NETWORK}", "batch_size=16", "bn_batches=2")),
        "--config.teacher.epochs=1", "--config.student.epochs=3",
        "--config.objective.pretrain_epochs=1")  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def slurm_job() -> int:
    """Returns the number of a job for which JAX uses a free port: 61440 plus its last 12 bits."""
    for job in random.SystemRandom().sample(range(4096), 4096):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", 61440 + job))
            return job
    raise OSError("no port is free")


def as_flags(processes: int) -> list[tuple[list[str], dict[str, str]]]:
    """Returns the flags and the environment of each process, connected by flags."""
    shared = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [([*shared, f"--process_id={number}"], {}) for number in range(processes)]


def as_slurm(processes: int) -> list[tuple[list[str], dict[str, str]]]:
    """Returns the flags and the environment of each process as srun sets them: no flags."""
    step = {"SLURM_JOB_ID": str(slurm_job()), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": str(processes)}  # fmt: skip
    numbers = map(str, range(processes))
    return [([], {**step, "SLURM_PROCID": n, "SLURM_LOCALID": n}) for n in numbers]


def start_fork(*arguments: str, **variables: str) -> Forked:
    """Starts the command in a fork; without matplotlib it writes no report, which takes long."""
    return commands.start("main", *arguments, absent=["matplotlib"], **variables)


def start_alert(*arguments: str, **variables: str) -> Forked:
    """Starts the command in a fork that notices within seconds that another process was killed."""
    script = str(ROOT / "tests" / "support" / "short_heartbeat.py")
    return Forked(script, arguments, ROOT, os.environ | variables, ["matplotlib"])


def start(
    processes: int,
    flags: list[list[str]],
    connect: Any = as_flags,
    start_one: Any = start_fork,
) -> list[Any]:
    """Starts the processes of a run with four devices in total; `flags` has a list for each."""
    devices = f"--xla_force_host_platform_device_count={4 // processes} {os.environ['XLA_FLAGS']}"
    return [
        start_one(*TINY, *process_flags, *connection, XLA_FLAGS=devices, **variables)
        for process_flags, (connection, variables) in zip(flags, connect(processes), strict=True)
    ]


def finish(processes: list[Any]) -> list[tuple[int, str, str]]:
    """Returns exit status, stdout and stderr of each process."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """The folders and the outputs of the same run by one process and by two."""
    root = tmp_path_factory.mktemp("hosts")
    folders = {count: root / str(count) for count in (1, 2)}
    # One after the other: the second run finds programs of the first in the compilation cache.
    done = {
        count: finish(
            start(
                count,
                [[f"--workdir={folder}", f"--config.data.dir={data_dir}"] for _ in range(count)],
            )
        )
        for count, folder in folders.items()
    }
    for outputs in done.values():
        for status, _, stderr in outputs:
            assert status == 0, stderr
    return folders, done


@pytest.mark.slow
def test_two_processes_are_bit_identical_to_one(runs) -> None:
    single, double = runs[0].values()
    for name in ("predictions/test.npz", "teacher/predictions/test.npz", "results.json"):
        assert (single / name).read_bytes() == (double / name).read_bytes(), name
    logged = [
        [(line["step"], line["split"], line.get("loss")) for line in map(json.loads, text)]
        for text in (
            (folder / "metrics.jsonl").read_text().splitlines() for folder in (single, double)
        )
    ]
    assert logged[0] == logged[1]


@pytest.mark.slow
def test_only_the_primary_process_prints(runs) -> None:
    (_, first, _), (_, second, _) = runs[1][2]
    assert "student  epoch 3/3" in first and "Thresholds of" in first
    assert "epoch" not in second and "Thresholds" not in second


def without_results(run: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """Copies a run without its evaluation."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("results.json", "predictions"))
    return copy


@pytest.mark.slow
def test_checkpoint_of_four_devices_is_read_by_one_device_and_by_two_processes(
    runs, data_dir, tmp_path
) -> None:
    single = runs[0][1]
    before = json.loads((single / "results.json").read_text())
    by_two = without_results(single, tmp_path / "two processes")
    by_one = without_results(single, tmp_path / "one device")
    data_flag = f"--config.data.dir={data_dir}"
    processes = start(2, [[f"--workdir={by_two}", data_flag]] * 2, as_slurm)
    done = commands.command("evaluate", f"--workdir={by_one}")
    assert done.returncode == 0, done.stderr
    after = json.loads((by_one / "results.json").read_text())
    assert after["test"]["nll"] == pytest.approx(before["test"]["nll"], rel=1e-5)
    for status, _, error in finish(processes):
        assert status == 0, error
    assert (by_two / "results.json").read_bytes() == (single / "results.json").read_bytes()


def wait_for(path: pathlib.Path, processes: list[Any]) -> None:
    """Waits until the file exists."""
    deadline = time.monotonic() + 300
    while not path.exists():
        assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_resume_after_sigterm_and_kill_of_one_process_is_bit_identical(
    runs, data_dir, tmp_path
) -> None:
    folder = tmp_path / "run"
    flags = [f"--workdir={folder}", f"--config.data.dir={data_dir}"]

    processes = start(2, [flags] * 2)
    wait_for(folder / "teacher" / "metrics.jsonl", processes)
    processes[1].send_signal(signal.SIGTERM)
    for status, _, error in finish(processes):
        assert status == 75 and "teacher stopped by SIGTERM at step" in error, error

    stream = [*flags, "--config.data.pipeline=stream"]
    processes = start(2, [stream] * 2, start_one=start_alert)
    wait_for(folder / "metrics.jsonl", processes)
    processes[1].kill()
    killed = time.monotonic()
    (status, _, error), _ = finish(processes)
    assert status != 0 and "process" in error and time.monotonic() - killed < 60
    assert not (folder / "results.json").exists()

    # One process resumes from the checkpoint of two.
    ((status, _, error),) = finish(start(1, [flags]))
    assert status == 0, error
    for name in ("predictions/test.npz", "results.json"):
        assert (folder / name).read_bytes() == (runs[0][1] / name).read_bytes(), name


@pytest.mark.slow
def test_failure_of_one_process_ends_all_with_its_error(data_dir, tmp_path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    flags = [
        [f"--workdir={tmp_path / 'run'}", f"--config.data.dir={data}"]
        for data in (data_dir, tmp_path / "file")
    ]
    (first, _, other_error), (second, _, own_error) = finish(start(2, flags))
    assert first == second != 0
    (message,) = [line for line in own_error.splitlines() if line.startswith("kdjax: error: ")]
    assert message.replace("error: ", "error: process 1: ", 1) in other_error.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=localhost:1"], "--num_processes and --process_id must be given too"),
        (
            ["--coordinator=localhost", "--num_processes=1", "--process_id=0"],
            "--coordinator 'localhost': must be HOST:PORT",
        ),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id 2: must lie in 0..1",
        ),
    ],
)
def test_inconsistent_process_flags_are_refused(flags, message, tmp_path) -> None:
    done = commands.command("main", *TINY, f"--workdir={tmp_path / 'run'}", *flags)
    assert (done.returncode, done.stderr) == (2, f"kdjax: error: {message}\n")
    assert list(tmp_path.iterdir()) == []
