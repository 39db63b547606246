"""Strict JAX settings, a compilation cache for the tests' own processes, and a finished run."""

import json
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import pytest
from commands import command

# Shared by the processes that tests start, so that a program is compiled once a session: in a
# folder of xdist's first process, which its workers inherit. Not by the workers themselves, whose
# disk some tests fill: half an entry would be read as a damaged one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="kdjax-test-cache-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**30)  # a number makes JAX lock it
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", None)

# Each virtual device that waits for the others in a collective holds a thread, and on a machine
# with few cores all of them can wait for ever; then XLA aborts. So: more threads than cores.
os.environ["PJRT_NPROC"] = "16"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)

SMOKE = (
    "--config=configs/digits.py",
    "--config.smoke",
    "--config.teacher.width=4",
    "--config.student.width=4",
)


class Run(NamedTuple):
    """A finished run: its folder, the flags of its command, and what that printed."""

    folder: pathlib.Path
    flags: tuple[str, ...]
    stdout: str

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS directory of this session's own."""
    return tmp_path_factory.mktemp("tensorflow_datasets")


@pytest.fixture(scope="session")
def finished(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The smoke run of digits, from nothing to its tables; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    flags = (*SMOKE, f"--config.data.dir={data_dir}")
    done = command("main", *flags, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "kdjax: " not in done.stderr
    return Run(folder, flags, done.stdout)
