"""Several processes on this machine, each with devices of its own, as one run."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = ("--config=configs/digits.py", "--config.smoke", "--config.teacher.width=2",
        "--config.student.width=2", "--config.student.model=alexnet_small")  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(processes: int, flags: list[list[str]]) -> list[subprocess.Popen]:
    """Starts the processes of one run, four devices in all, `flags` one list each."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    together = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "kdjax.main", *TINY, *own, *together, f"--process_id={number}"],
            **{"cwd": ROOT, "env": environment, "text": True},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number, own in enumerate(flags)
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
    assert "student  epoch 2/2" in first and "Thresholds of" in first
    assert "epoch" not in second and "Thresholds" not in second


def test_one_process_reads_what_two_have_written(runs, tmp_path) -> None:
    folder = runs[0][2]
    before = json.loads((folder / "results.json").read_text())
    command = [sys.executable, "-m", "kdjax.evaluate", f"--workdir={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = json.loads((folder / "results.json").read_text())
    assert after["test"]["nll"] == pytest.approx(before["test"]["nll"], rel=1e-5)


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
