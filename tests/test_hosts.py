"""Several processes on this machine, each with devices of its own, as one run."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = ("--config=configs/digits.py", "--config.data.limit=64", "--config.log_every=1",
        *(f"--config.{stage}.{field}" for stage in ("teacher", "student")
          for field in ("model=alexnet_small", "width=2", "batch_size=16", "norm_batches=2")),
        "--config.teacher.epochs=1", "--config.student.epochs=4",
        "--config.objective.pretrain_epochs=1")  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def as_flags(processes: int) -> list[tuple[list[str], dict[str, str]]]:
    """Flags and environment by which each process finds the others."""
    together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [([*together, f"--process_id={number}"], {}) for number in range(processes)]


def as_slurm(processes: int) -> list[tuple[list[str], dict[str, str]]]:
    """What srun tells its processes: nothing by flags."""
    step = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": str(processes)}  # fmt: skip
    numbers = map(str, range(processes))
    return [([], {**step, "SLURM_PROCID": own, "SLURM_LOCALID": own}) for own in numbers]


def start(processes: int, flags: list[list[str]], how: Any = as_flags) -> list[subprocess.Popen]:
    """Starts the processes of one run, four devices in all, `flags` one list each."""
    devices = f"--xla_force_host_platform_device_count={4 // processes}"
    environment = {
        **os.environ,
        # What is computed is the matter here, not how fast: so compile in half the time.
        "XLA_FLAGS": f"{devices} --xla_backend_optimization_level=0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "kdjax.main", *TINY, *own, *together],
            **{"cwd": ROOT, "env": environment | variables, "text": True},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for own, (together, variables) in zip(flags, how(processes), strict=True)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """The folder and the outputs of a run by one process, and by two."""
    root = tmp_path_factory.mktemp("hosts")
    folders = {count: root / str(count) for count in (1, 2)}
    started = {
        count: start(
            count, [[f"--workdir={folder}", f"--config.data.dir={data_dir}"] for _ in range(count)]
        )
        for count, folder in folders.items()
    }
    done = {count: finish(processes) for count, processes in started.items()}
    for outputs in done.values():
        for status, _, stderr in outputs:
            assert status == 0, stderr
    return folders, done


def test_two_processes_give_the_numbers_of_one_digit_for_digit(runs) -> None:
    (one, two), _ = runs[0].values(), runs[1]
    for name in ("predictions/test.npz", "teacher/predictions/test.npz", "results.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    told = [
        [(line["step"], line["split"], line.get("loss")) for line in map(json.loads, text)]
        for text in ((folder / "metrics.jsonl").read_text().splitlines() for folder in (one, two))
    ]
    assert told[0] == told[1]


def test_one_of_them_speaks(runs) -> None:
    (_, first, _), (_, second, _) = runs[1][2]
    assert "student  epoch 4/4" in first and "Thresholds of" in first
    assert "epoch" not in second and "Thresholds" not in second


def without_results(run: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """A copy of a run that was trained and not evaluated."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("results.json", "predictions"))
    return copy


def test_a_checkpoint_of_four_devices_is_read_by_one_and_by_two_processes(
    runs, data_dir, tmp_path
) -> None:
    (one, _), _ = runs[0].values(), runs[1]
    before = json.loads((one / "results.json").read_text())
    together = without_results(one, tmp_path / "two processes")
    alone = without_results(one, tmp_path / "one device")
    where = f"--config.data.dir={data_dir}"
    processes = start(2, [[f"--workdir={together}", where]] * 2, as_slurm)
    command = [sys.executable, "-m", "kdjax.evaluate", f"--workdir={alone}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = json.loads((alone / "results.json").read_text())
    assert after["test"]["nll"] == pytest.approx(before["test"]["nll"], rel=1e-5)
    assert [status for status, _, _ in finish(processes)] == [0, 0]
    assert (together / "results.json").read_bytes() == (one / "results.json").read_bytes()


def once(path: pathlib.Path, processes: list[subprocess.Popen]) -> None:
    """Waits until the file is there."""
    deadline = time.monotonic() + 300
    while not path.exists():
        assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_that_are_stopped_and_killed_end_as_if_left_alone(
    runs, data_dir, tmp_path
) -> None:
    folder = tmp_path / "run"
    flags = [f"--workdir={folder}", f"--config.data.dir={data_dir}"]

    processes = start(2, [flags] * 2)
    once(folder / "teacher" / "metrics.jsonl", processes)
    processes[1].send_signal(signal.SIGTERM)
    for status, _, error in finish(processes):
        assert status == 75 and "teacher stopped by SIGTERM at step" in error, error

    processes = start(2, [[*flags, "--config.data.pipeline=stream"]] * 2)
    once(folder / "metrics.jsonl", processes)
    processes[1].kill()
    killed = time.monotonic()
    (status, _, error), _ = finish(processes)
    assert status != 0 and "process" in error and time.monotonic() - killed < 60
    assert not (folder / "results.json").exists()

    # With other processes, too: what was saved by two is continued by one.
    ((status, _, error),) = finish(start(1, [flags]))
    assert status == 0, error
    for name in ("predictions/test.npz", "results.json"):
        assert (folder / name).read_bytes() == (runs[0][1] / name).read_bytes(), name


def test_a_failure_of_one_ends_all_with_its_message(data_dir, tmp_path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    flags = [
        [f"--workdir={tmp_path / 'run'}", f"--config.data.dir={where}"]
        for where in (data_dir, tmp_path / "file")
    ]
    (first, _, told), (second, _, own) = finish(start(2, flags))
    assert first == second != 0
    (message,) = [line for line in own.splitlines() if line.startswith("kdjax: error: ")]
    assert message.replace("error: ", "error: process 1: ", 1) in told.splitlines()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=localhost:1"], "--num_processes and --process_id must be given too"),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id 2: must lie in 0..1",
        ),
    ],
)
def test_processes_that_cannot_fit_together_are_refused(flags, message, tmp_path) -> None:
    command = [sys.executable, "-m", "kdjax.main", *TINY, f"--workdir={tmp_path / 'run'}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"kdjax: error: {message}\n")
    assert list(tmp_path.iterdir()) == []
