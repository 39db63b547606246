"""The short form of the fault harness: a real run, killed at random moments."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# The networks that compile fastest, and few steps.
SHORT = [
    *(f"--config.{stage}.model=alexnet_small" for stage in ("teacher", "student")),
    "--config.teacher.epochs=1", "--config.student.epochs=3", "--config.student.batch_size=64",
]  # fmt: skip


def test_a_run_that_is_killed_at_random_moments_ends_in_the_bits_of_one_left_alone(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "experiments/faults.py", "--kills=2", f"--out={tmp_path}", *SHORT]
    command.append(f"--config.data.dir={data_dir}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    # -15 is a SIGTERM that comes before the run has asked for it.
    assert [set(fault["statuses"]) <= {-9, -15, 75} for fault in found["faults"]] == [True] * 2
    assert found["different"] and not any(found["different"].values())
    assert "2 of 2 kills recovered from" in done.stdout
