"""Settings of every test, and the data and runs that tests share over all xdist workers."""

import gc
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import filelock
import jax
import pytest
from support import compile_cache
from support.commands import python
from support.tiny_network import TINY_NETWORK

from kdjax import process

# Programs are compiled once, for all xdist workers, for the processes that tests start, and for
# later sessions. xdist's controller prepares the folder, and the workers inherit the variable. JAX
# does not limit it: it would search the whole folder for every new program.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compile_cache.prepare()
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = "-1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = str(compile_cache.FRAMES)
compile_cache.use(os.environ["JAX_COMPILATION_CACHE_DIR"])

os.environ.setdefault("XLA_FLAGS", compile_cache.XLA_FLAGS)

# Each virtual device that waits in a collective holds a thread, and on a machine with few cores
# all threads can wait forever until XLA aborts: use more threads than cores.
os.environ["PJRT_NPROC"] = "16"

# As in the commands: collections of garbage take a tenth of the time of tracing.
gc.set_threshold(*process.GARBAGE_THRESHOLDS)

jax.config.update("jax_numpy_rank_promotion", "raise")
# Accelerators round the factors of matrix products by default; the references do not.
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 4)

SMOKE_FLAGS = (
    "--config=configs/digits.py",
    "--config.smoke",
    f"--config.teacher.model={TINY_NETWORK}",
    "--config.teacher.width=4",
    "--config.student.width=4",
)


class FinishedRun(NamedTuple):
    """A finished run: its workdir, the flags of its command, and what the command printed."""

    folder: pathlib.Path
    flags: tuple[str, ...]
    stdout: str

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())


# The files that take longest, in this order, as far as they are measured.
LONGEST_FILES = (
    "test_pipeline.py",
    "runtime/test_multihost.py",
    "export/test_export.py",
    "test_commands.py",
    "export/test_teacher_export.py",
    "evaluation/test_gate.py",
    "test_paper_queue.py",
    "training/test_view_cache.py",
    "test_real_data.py",
    "runs/test_students.py",
    "test_objectives.py",
    "selective/test_scores.py",
    "report/page/test_single.py",
    "runs/test_restore.py",
    "report/page/test_browser.py",
    "test_notebooks.py",
    "test_faults.py",
    "models/test_models.py",
    "test_losses.py",
    "export/test_gate.py",
    "training/test_preemption.py",
    "report/page/test_command.py",
    "test_own_network.py",
    "test_docs.py",
    "test_benchmark.py",
    "runs/test_teachers.py",
    "test_sweep.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the longest files first, then those with slow tests: the workers finish together."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    tests = pathlib.Path(__file__).parent

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.relative_to(tests).as_posix()
        longest = name in LONGEST_FILES
        rank = LONGEST_FILES.index(name) if longest else len(LONGEST_FILES)
        return rank, item.path not in slow_files

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Takes the modules and the thousands of tests out of the later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_folder(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str, Callable[[pathlib.Path], None]], pathlib.Path]:
    """Returns `(name, make) -> folder`: made by the first xdist worker that asks, then shared.

    Tests only read it; those that change something copy it first.
    """
    base = tmp_path_factory.getbasetemp()
    session = base.parent if hasattr(request.config, "workerinput") else base

    def get(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
        folder, complete = session / "shared" / name, session / "shared" / f"{name}.complete"
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(session / "shared" / f"{name}.lock"):
            if not complete.exists():
                make(folder)
                complete.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def data_dir(shared_folder: Callable[..., pathlib.Path]) -> pathlib.Path:
    """A TFDS directory with the digits prepared and cached."""

    def prepare(folder: pathlib.Path) -> None:
        from kdjax import data

        data.load("digits", data_dir=folder)

    return shared_folder("tensorflow_datasets", prepare)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the plots of a page empty: drawing them takes most of the time of a page."""
    import markupsafe

    from kdjax.report.page import svg

    def empty(name: str, title: str, *_: object, **__: object) -> markupsafe.Markup:
        return markupsafe.Markup('<svg role="img" aria-label="{}"></svg>').format(title)

    monkeypatch.setattr(svg, "render", empty)


@pytest.fixture(scope="session")
def gated_run(data_dir: pathlib.Path, shared_folder: Callable[..., pathlib.Path]) -> pathlib.Path:
    """The workdir of the evaluated run of `support.gated_runs`."""

    def run(folder: pathlib.Path) -> None:
        from support.gated_runs import gated_config

        from kdjax import pipeline
        from kdjax.evaluation import evaluate

        dataset = pipeline.train(gated_config(data_dir), folder / "run")
        evaluate.evaluate(folder / "run", dataset)

    return shared_folder("gated_run", run) / "run"


@pytest.fixture(scope="session")
def finished_run(data_dir: pathlib.Path, shared_folder: Callable[..., pathlib.Path]) -> FinishedRun:
    """The smoke run of the digits config, with what its command printed."""
    flags = (*SMOKE_FLAGS, f"--config.data.dir={data_dir}")

    def run(folder: pathlib.Path) -> None:
        done = python("-m", "kdjax.main", *flags, f"--workdir={folder / 'digits'}")
        assert done.returncode == 0, done.stderr
        assert "kdjax: " not in done.stderr
        (folder / "stdout.txt").write_text(done.stdout)

    folder = shared_folder("smoke_run", run)
    return FinishedRun(folder / "digits", flags, (folder / "stdout.txt").read_text())
