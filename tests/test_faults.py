"""A short run of the fault harness: a real run, killed at a random time."""

import json
import pathlib
import subprocess
import sys

import pytest
from support.tiny_network import TINY_NETWORK

ROOT = pathlib.Path(__file__).parents[1]
# A network that compiles fast, and few steps.
SHORT = [
    *(f"--config.{stage}.model={TINY_NETWORK}" for stage in ("teacher", "student")),
    "--config.teacher.epochs=1", "--config.student.epochs=3", "--config.student.batch_size=64",
]  # fmt: skip


@pytest.mark.slow
def test_run_killed_at_a_random_time_is_bit_identical(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "experiments/faults.py", "--kills=1", f"--out={tmp_path}", *SHORT]
    command.append(f"--config.data.dir={data_dir}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "faults.json").read_text())
    # -15: SIGTERM before the run has installed its handler.
    (fault,) = results["faults"]
    assert set(fault["statuses"]) <= {-9, -15, 75}
    assert results["different"] and not any(results["different"].values())
    assert "Recovered from 1 of 1 kills" in done.stdout
