"""SIGTERM and Ctrl-C: the flag, and that an interrupted run loses at most one step."""

import json
import os
import pathlib
import re
import signal
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from support import commands, forked
from support.runs import tiny
from support.tiny_network import TINY_NETWORK

from kdjax import pipeline
from kdjax.errors import Preempted
from kdjax.evaluation import evaluate
from kdjax.training.preemption import Preemption


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C has its usual effect, also if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        preemption.listen()
        os.kill(os.getpid(), signal.SIGINT)
        assert not preemption.recorded
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "kind", "name"),
    [(signal.SIGTERM, Preempted, "SIGTERM"), (signal.SIGINT, KeyboardInterrupt, "Ctrl-C")],
)
def test_first_signal_is_recorded(number, kind, name) -> None:
    before = signal.getsignal(number)
    with Preemption() as preemption:
        preemption.listen()
        assert not preemption.requested()
        os.kill(os.getpid(), number)
        assert preemption.requested() and preemption.recorded
        error = preemption.stopped("student", 2)
    assert type(error) is kind and f"student stopped by {name} at step 2" in str(error)
    assert signal.getsignal(number) is before


def test_second_ctrl_c_has_its_usual_effect() -> None:
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        preemption.listen()
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.requested()
        os.kill(os.getpid(), signal.SIGINT)


def test_before_listening_signals_have_their_usual_effect() -> None:
    with pytest.raises(KeyboardInterrupt), Preemption():
        os.kill(os.getpid(), signal.SIGINT)


def test_several_processes_poll_with_numbers_that_go_on_from_stage_to_stage(monkeypatch) -> None:
    polled = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda number: polled.append(number)
    )
    for _ in range(2):  # stages
        with Preemption() as preemption:
            preemption.listen()
            for _ in range(3):
                assert not preemption.requested()
    # JAX compares for equality: a number that is left out would be missed.
    assert np.diff(polled).tolist() == [1] * 5


def start_run(folder: pathlib.Path, data_dir: pathlib.Path) -> forked.Forked:
    """Starts the command with the devices of this process; without matplotlib, so no report."""
    devices = f"--xla_force_host_platform_device_count={jax.device_count()}"
    return commands.start(
        *("main", "--config=configs/digits.py", "--config.smoke", "--config.log_every=1"),
        *(f"--config.{stage}.model={TINY_NETWORK}" for stage in ("teacher", "student")),
        *(f"--workdir={folder}", f"--config.data.dir={data_dir}"),
        absent=["matplotlib"],
        XLA_FLAGS=f"{devices} {os.environ['XLA_FLAGS']}",
    )


def finish(folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Runs the run, or what is left of it, to its end, as the command does."""
    dataset = pipeline.train(tiny(data_dir, log_every=1), folder)
    evaluate.evaluate_all([folder], dataset)


@pytest.fixture(scope="module")
def whole(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The workdir of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, data_dir)
    return folder


def wait_for_step(log: pathlib.Path, step: int) -> None:
    """Waits until `metrics.jsonl` has a line of at least this step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines() if log.exists() else []
        if any(line.endswith("}") and json.loads(line)["step"] >= step for line in lines):
            return
        time.sleep(0.002)
    raise TimeoutError(log)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("teacher", 1), ("student", 5)])
def test_run_interrupted_by_ctrl_c_saves_its_step_and_ends_bit_identically(
    stage, step, whole, data_dir, tmp_path
) -> None:
    folder = tmp_path / "run"
    process = start_run(folder, data_dir)
    stage_folder = folder / "teacher" if stage == "teacher" else folder
    wait_for_step(stage_folder / "metrics.jsonl", step)
    logged = max(
        json.loads(line)["step"]
        for line in (stage_folder / "metrics.jsonl").read_text().splitlines()
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    match = re.search(rf"error: {stage} stopped by Ctrl-C at step (\d+), which is saved", errors)
    assert match and int(match[1]) >= logged and "Traceback" not in errors
    assert (stage_folder / "checkpoints" / match[1]).is_dir()
    finish(folder, data_dir)
    for name in ("results.json", "predictions/test.npz", "teacher/predictions/dev.npz"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
