"""The process of a command: streams, Ctrl-C, and errors of the machine, in real processes."""

import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import pytest
from support.commands import ROOT, assert_refused, command, python

from kdjax import process

HEAD = "from kdjax import cli\n"


def run(body: str, **options) -> subprocess.CompletedProcess:
    """Runs a command whose main function has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    command = [sys.executable, "-c", f"{HEAD}def main():\n{lines}cli.run(main)"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, text=True, timeout=100, env=environment, **options)


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    done = run("print('é ━ …')", env={"PYTHONIOENCODING": "latin-1"}, encoding="latin-1")
    assert (done.returncode, done.stdout) == (0, "é \\u2501 \\u2026\n")


@pytest.mark.slow
def test_progress_bar_on_a_latin_1_terminal_does_not_end_the_run() -> None:
    body = """\
from kdjax.training.progress import Progress
sizes = {"steps_per_epoch": 4, "epochs": 3, "batch_size": 16, "done": 0}
with Progress("student", **sizes) as progress:
    assert progress.live
    progress.show_epoch(4, "", {"loss": 0.5, "accuracy": 0.25, "dev_accuracy": 0.75})
"""
    primary, secondary = pty.openpty()
    environment = {"PYTHONIOENCODING": "latin-1", "COLUMNS": "80", "TERM": "xterm"}
    done = run(body, env=environment, stdout=secondary)
    os.close(secondary)
    assert (done.returncode, done.stderr) == (0, "")
    shown = os.read(primary, 2**16).decode("latin-1")
    assert "dev 0.75 loss 0.5" in shown and "images/s" in shown and " left" in shown


def test_closed_and_full_standard_output_are_named() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("print('text', flush=True)", stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == "kdjax: error: [Errno 32] Broken pipe: 'standard output'\n"
    with pathlib.Path("/dev/full").open("w") as full:
        done = run("print('text')", stdout=full)
    assert done.returncode == 1
    assert done.stderr == ("kdjax: error: [Errno 28] No space left on device: 'standard output'\n")


@pytest.mark.parametrize(("closed", "shown"), [(">&-", ""), ("2>&-", "text\n"), ("<&-", "text\n")])
def test_closed_standard_streams_are_no_error(closed, shown) -> None:
    body = "import warnings; print('text'); warnings.warn('seen')"
    code = f"{HEAD}def main():\n    {body}\ncli.run(main)"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, shown), done.stderr
    assert done.stderr == ("" if closed == "2>&-" else "kdjax: warning: seen\n")


def test_exceptions_of_threads_after_a_failed_save_are_not_printed() -> None:
    body = """\
class Dying:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)
for message in "Event loop is closed", "other":
    Dying(message)
"""
    done = run(body)
    assert done.returncode == 0
    assert "RuntimeError: other" in done.stderr and "Event loop" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "act", ["raise MemoryError('Unable to allocate')", "import jax.numpy as j; j.zeros(2**55)"]
)
def test_out_of_memory_is_one_line(act) -> None:
    done = run(act)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("kdjax: error: out of memory: ")
    assert "smaller batches" in line


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "nosuch"])
def test_platform_that_the_machine_lacks_is_one_line(platforms) -> None:
    done = run("import jax; jax.devices()", env={"JAX_PLATFORMS": platforms})
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"kdjax: error: JAX_PLATFORMS='{platforms}' cannot be used on this")


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_two_quick_ctrl_c_print_one_line(pause) -> None:
    body = "print('ready', flush=True)\ntry:\n    time.sleep(60)\nfinally:\n    time.sleep(60)\n"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"import time\n{HEAD}def main():\n{lines}cli.run(main)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2 + pause)  # signals that arrive together are one
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "kdjax: error: interrupted; run the same command again to continue\n"


CONFIG = """\
from kdjax.config import base
def get_config():
    config = base()
    {line}
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "does not define a function get_config()"),
        ("def get_config():\n    pass\n", "returns NoneType, not a ConfigDict"),
        ("def get_config():\n    return absent\n", "line 2: NameError: name 'absent' is not"),
        ("def get_config(:\n", "line 1: SyntaxError: invalid syntax"),
        (CONFIG.format(line="config.student.epochs = 2.5"), "student.epochs 2.5 is not an integer"),
        (CONFIG.format(line="config.students = None"), "students None is not a tuple of dicts"),
    ],
)
def test_config_file_that_fails_is_one_line(text, message, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = command("main", "--config=mine.py", cwd=tmp_path)
    assert_refused(done, message)
    assert [path.name for path in tmp_path.iterdir() if path.name == "runs"] == []


@pytest.mark.slow
def test_home_directory_is_replaced_in_paths(tmp_path) -> None:
    done = command("evaluate", "--workdir=~/run", HOME=str(tmp_path))
    assert_refused(done, f"'{tmp_path}/run' is not a workdir")
    done = command("evaluate", "--workdir=~nosuchuser/run")
    assert_refused(done, "no home directory '~nosuchuser'")
    network = "--config.student.model=~nosuchuser/net.py:Net"
    assert_refused(command("main", "--config=digits", network), "no home directory '~nosuchuser'")


def test_ctrl_c_during_a_callback_is_not_lost() -> None:
    code = """
import os, signal, time
from kdjax import process

class Callback:
    def __del__(self):  # its exceptions are ignored
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)
process.prepare()
try:
    callback = Callback()
    del callback
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize(("action", "verb"), [("reading", "read from"), ("writing", "written to")])
def test_warnings_of_the_compilation_cache_are_shown_once_per_kind(
    action: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """JAX warns about every program; the kind is the action and the type of the error."""
    for name, reason in (("jit_a", "No such file: 'a-atime'"), ("jit_b", "No such file: 'b'")):
        entry = f"Error {action} persistent compilation cache entry for '{name}'"
        process.show_warning(f"{entry}: KindOf{action}: {reason}", UserWarning)
    process.show_warning("another\nwarning", UserWarning)
    first, other = capsys.readouterr().err.splitlines()
    assert first == (
        f"kdjax: warning: a compiled program cannot be {verb} the compilation cache "
        f"(KindOf{action}: No such file: 'a-atime'); further warnings of this kind are not shown"
    )
    assert other == "kdjax: warning: another warning"
