"""Commands of kdjax in forks of a process that has imported the libraries.

Starting Python and importing the libraries takes two seconds of each command, and is the same for
all of them. The server process has not used JAX: its forks have backends of their own, and read
`XLA_FLAGS` and the compilation cache as a new process does.
"""

import atexit
import functools
import gc
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import jax

# What the commands import, without the modules of the commands: these define flags.
LIBRARIES = (
    "kdjax.cli",
    "kdjax.pipeline",
    "kdjax.evaluation.evaluate",
    "kdjax.evaluation.robustness",
    "kdjax.export.exporter",
    "kdjax.predict",
    "kdjax.report.console",
    "kdjax.report.page",
    "kdjax.training.metric_writer",
    "matplotlib.backends.backend_svg",
)
# Variables that are read when Python starts or when JAX is imported.
READ_AT_START = ("JAX_", "LANG", "LC_", "PYTHON")

# Without the folders of networks of the user, which kdjax adds: in `tests/support`, `experiments`
# would be a module.
_PATH = tuple(sys.path)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LIBRARIES))


def can_fork(environment: Mapping[str, str]) -> bool:
    """Returns whether a fork behaves as a new process with this environment."""
    return _read_at_start(environment) == _of_server()


class Forked:
    """`python -m module arguments`, started in a fork; used as `subprocess.Popen`.

    Args:
        module: is run as `__main__`; or the path of a script, which ends in `.py`.
        arguments: of the command line.
        cwd: the working directory.
        environment: all variables; those that are read at the start are those of the server.
        absent: packages that cannot be imported.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        cwd: pathlib.Path,
        environment: Mapping[str, str],
        absent: Sequence[str] = (),
    ) -> None:
        assert can_fork(environment)
        self.args = [module, *arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="kdjax-test-output-")
        self._streams = [pathlib.Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._streams:
            path.touch()
        handler = signal.getsignal(signal.SIGINT)
        interrupt = signal.SIG_IGN if handler == signal.SIG_IGN else signal.default_int_handler
        self._process = _context.Process(
            target=_run,
            args=(
                *(self.args, [str(cwd), *_PATH], dict(environment)),
                *(self._streams, absent, interrupt),
            ),
        )
        self._process.start()

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 1200) -> tuple[str, str]:
        """Waits for the end of the process and returns its stdout and stderr."""
        self._process.join(timeout)
        ended = self.poll() is not None
        if not ended:
            self.kill()
        out, err = (path.read_text() for path in self._streams)
        self._folder.cleanup()
        if not ended:
            raise subprocess.TimeoutExpired(self.args, timeout, out, err)
        return out, err


def run(*arguments, **options) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; the arguments are those of `Forked`."""
    process = Forked(*arguments, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.poll(), out, err)


@functools.cache
def _of_server() -> dict[str, str]:
    """Returns the variables of the server, which is started with the first command."""
    return _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    # PYTHONPATH: a fork has the path of the tests and of kdjax.
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name != "PYTHONPATH"
    }


def _run(
    command: Sequence[str],
    path: list[str],
    environment: Mapping[str, str],
    streams: Sequence[pathlib.Path],
    absent: Sequence[str],
    interrupt,
) -> None:
    """Runs a module or a script as `__main__` in this process, with its output in files."""
    gc.freeze()  # what the server has imported stays
    signal.signal(signal.SIGINT, interrupt)
    for output, stream in zip(streams, (sys.stdout, sys.stderr), strict=True):
        with output.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(path[0])
    sys.path[:] = path
    hidden = [name for name in sys.modules if name.partition(".")[0] in absent]
    sys.modules.update(dict.fromkeys([*absent, *hidden]))
    sys.argv = list(command)
    try:
        if command[0].endswith(".py"):
            sys.path.insert(0, str(pathlib.Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        # Until Python 3.12, a fork of multiprocessing does not call the functions of atexit; from
        # 3.13 on it drops those that were registered before the fork, among them that of JAX, in
        # which the processes of a run wait for each other: if the first one ended before, JAX would
        # abort the others.
        atexit._run_exitfuncs()
        jax.distributed.shutdown()
