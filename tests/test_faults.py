"""A short run of the fault harness: a real run, killed at a random time."""

import json
import pathlib
import subprocess
from typing import Any

import pytest
from support.experiments import load, run_main
from support.forked import Forked
from support.tiny_network import TINY_NETWORK

# A network that compiles fast, few steps and images.
SHORT = [
    *(f"--config.{stage}.model={TINY_NETWORK}" for stage in ("teacher", "student")),
    "--config.teacher.epochs=1", "--config.student.epochs=3", "--config.student.batch_size=4",
    "--config.data.limit=64", "--config.teacher.batch_size=16",
]  # fmt: skip


class Run(Forked):
    """A run of kdjax in a fork, started as by `Popen`; without matplotlib it writes no report."""

    def __init__(self, command: list[str], *, cwd: Any, env: Any, stdout: Any, stderr: int) -> None:
        _, dash_m, module, *arguments = command
        assert dash_m == "-m" and stderr == subprocess.STDOUT and stdout.writable()
        super().__init__(module, arguments, cwd, env, absent=["matplotlib"])

    def wait(self, timeout: float) -> int | None:
        self.communicate(timeout)
        return self.poll()

    def kill(self) -> None:
        if self.poll() is None:
            super().kill()


@pytest.mark.slow
def test_run_killed_at_a_random_time_is_bit_identical(
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = load("faults")
    monkeypatch.setattr(subprocess, "Popen", Run)
    flags = [*SHORT, f"--config.data.dir={data_dir}"]
    with pytest.raises(SystemExit) as ended:
        # With this seed the moment is in a save after a quarter of the time, before the run ends.
        run_main(faults, monkeypatch, "--kills=1", "--seed=39", f"--out={tmp_path}", *flags)
    printed = capsys.readouterr().out
    assert not ended.value.code, printed
    results = json.loads((tmp_path / "faults.json").read_text())
    # -15: SIGTERM before the run has installed its handler.
    (fault,) = results["faults"]
    assert set(fault["statuses"]) <= {-9, -15, 75}
    assert results["different"] and not any(results["different"].values())
    assert "Recovered from 1 of 1 kills" in printed
