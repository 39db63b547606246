"""The queue of the comparison as real processes: it picks up after a kill with the same tables."""

import contextlib
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import TextIO

import jax
import numpy as np
import pytest
from support.commands import ROOT
from support.tiny_network import TINY_NETWORK

from experiments.paper import __main__ as paper
from experiments.paper import plan
from kdjax.errors import InputError

JOBS = [job.name for job in plan.jobs(["cifar10"], ["structure"], [0])]
# The digits with tiny networks, in place of CIFAR-10: only the queue is tested.
QUEUE = [
    "--budget=smoke", "--data", "cifar10", "--settings", "structure", "--seeds", "0",
    "--methods", "kd",
]  # fmt: skip
# A process computes as this one, which continues its job.
COMPUTATION = {
    "JAX_NUM_CPU_DEVICES": str(jax.config.jax_num_cpu_devices),
    "JAX_DEFAULT_MATMUL_PRECISION": str(jax.config.jax_default_matmul_precision),
}
NETWORKS = [f"{stage}.model={TINY_NETWORK}" for stage in ("teacher", "student")]


class Queue:
    """A queue with the folder of its runs and that of its result files."""

    def __init__(self, folder: pathlib.Path, data_dir: pathlib.Path) -> None:
        self.runs, self.out = folder / "runs", folder / "results"
        fields = [*NETWORKS, "data.name=digits", "data.pad=1", f"data.dir={data_dir}"]
        self.arguments = [*QUEUE, "--set", *fields, f"--runs={self.runs}", f"--out={self.out}"]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.paper", "run", *self.arguments],
            cwd=ROOT,
            env={**os.environ, **COMPUTATION},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a signal reaches the queue and its job
        )

    def run_job(self, name: str) -> None:
        """Trains one job, as the queue does."""
        command = [sys.executable, "-m", "experiments.paper", "job", name, *self.arguments]
        run_here(command, stdout=io.StringIO(), stderr=subprocess.STDOUT)

    def take(self, job: str, other: "Queue") -> None:
        """Copies the result files of a job from another queue."""
        for path in other.out.glob(f"{job}.*"):
            shutil.copy(path, self.out)

    def command(self, name: str, capsys: pytest.CaptureFixture[str]) -> str:
        """Returns what a command of the queue prints."""
        paper.main([name, *([f"--out={self.out}"] if name == "table" else self.arguments)])
        return capsys.readouterr().out

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays of the result files."""
        return {
            f"{path.stem}/{name}": array
            for path in sorted(self.out.glob("*.npz"))
            for name, array in np.load(path).items()
        }


def run_here(command: list[str], *, stdout: TextIO, stderr: int) -> subprocess.CompletedProcess:
    """Runs a job to its end, as `subprocess.run` does, in this process."""
    _, flag, module, *arguments = command
    assert (flag, module, stderr) == ("-m", "experiments.paper", subprocess.STDOUT)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stdout):
        paper.main(arguments)
    return subprocess.CompletedProcess(command, 0)


def wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def processes_of(session: int) -> list[int]:
    """Returns the processes that were started in a session and have not ended."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_queue_continues_and_gives_the_same_tables(
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, killed = (Queue(tmp_path / name, data_dir) for name in ("undisturbed", "killed"))
    undisturbed.run_job(JOBS[0])

    process = killed.start()
    saved = killed.runs / JOBS[0] / "teacher" / "checkpoints"
    wait_for(lambda: any(path.name.isdigit() for path in saved.glob("*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.communicate()[0] == f"{JOBS[0]}: started\n"
    deadline = time.monotonic() + 20
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes_of(process.pid)
    assert killed.command("status", capsys).splitlines() == [
        f"{JOBS[0]}: started",
        f"{JOBS[1]}: open",
    ]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run_here)
        assert killed.command("run", capsys).splitlines() == [
            f"{job}: {state}" for job in JOBS for state in ("started", "finished")
        ]
    undisturbed.take(JOBS[1], killed)
    assert killed.command("table", capsys) == undisturbed.command("table", capsys)
    expected, arrays = undisturbed.arrays(), killed.arrays()
    assert len(expected) > 0 and arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert killed.command("run", capsys) == ""  # nothing is trained again
    assert killed.command("status", capsys).splitlines() == [f"{job}: finished" for job in JOBS]


@pytest.mark.parametrize("field", plan.RESERVED)
def test_fields_that_every_job_sets_are_refused(field):
    with pytest.raises(InputError, match=f"every job sets {field} itself"):
        plan.parse_changes([f"{field}=1"])
