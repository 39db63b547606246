"""The process of a command: standard streams, Ctrl-C, warnings, and errors of the environment."""

import contextlib
import gc
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

# New objects between two collections of garbage, and collections between those of older objects.
# Tracing makes many objects that stay: with Python's defaults, collections that find nothing take
# a tenth of the time until the first step.
GARBAGE_THRESHOLDS = (50_000, 20, 50)
INTERRUPTED = "interrupted; run the same command again to continue"
FAILED = 1
_AGAIN_SECONDS = 0.02  # until a Ctrl-C that a callback has swallowed is raised again
# The warnings of JAX about its compilation cache: one for every program.
_CACHE_WARNING = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '[^']*': (\w+): (.*)",
    re.DOTALL,
)
_cache_warnings: set[tuple[str, str]] = set()


def prepare() -> None:
    """Sets up streams, warnings, Ctrl-C and garbage; call it once, before the command starts."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    _open_closed_streams()
    _name_stdout()
    warnings.showwarning = show_warning  # type: ignore[assignment]
    sys.unraisablehook = _print_unraisable
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # in the background it is ignored
        signal.signal(signal.SIGINT, _interrupt)


def _print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Prints an exception that no code can catch, such as one of a callback.

    A Ctrl-C during a callback, such as JAX's of the garbage collector, is raised again after it.
    Not those of TensorStore's threads after a failed save, up to hundreds: the command itself
    reports the failure in one line.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGINT, _interrupt)
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
        return
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def _open_closed_streams() -> None:
    """Discards what goes to a standard stream that is closed, as by `>&-` in a shell.

    Python has None for it, and the next file that is opened would get its number.
    """
    for name, flag, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_WRONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, flag), mode)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # or it would be closed when the name is replaced


class _Output(io.TextIOWrapper):
    """Standard output whose errors name it, as those of a file name the file."""

    def write(self, text: str) -> int:
        with _named_errors():
            return super().write(text)

    def flush(self) -> None:
        with _named_errors():
            super().flush()


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _name_stdout() -> None:
    """Replaces standard output by one that names itself in errors and escapes characters.

    A character that the terminal's encoding lacks must not end a run.
    """
    stream = sys.stdout
    if type(stream) is io.TextIOWrapper:
        sys.stdout = _Output(
            stream.buffer,
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def discard_unwritable_output() -> None:
    """Writes what is buffered; if that fails, Python must not fail again when it exits."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, _exit_at_once)
    raise KeyboardInterrupt


def _exit_at_once(*_: object) -> None:
    # Cleaning up after the first Ctrl-C may take long, and a second KeyboardInterrupt within a
    # library would print its traceback.
    os.write(2, f"kdjax: error: {INTERRUPTED}\n".encode())
    _exit_silently()


def _exit_silently(*_: object) -> None:
    if os.isatty(1):
        os.write(1, b"\x1b[?25h")  # a progress bar hides the cursor
    os._exit(FAILED)


def finish_interrupted() -> None:
    """Makes another Ctrl-C end the process without a message; call it after the error is shown."""
    signal.signal(signal.SIGINT, _exit_silently)


def show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Prints a warning as one line; those of JAX's compilation cache once per kind."""
    text = " ".join(str(message).split())
    if match := _CACHE_WARNING.match(str(message)):
        action, kind, reason = match.groups()
        if (action, kind) in _cache_warnings:
            return
        _cache_warnings.add((action, kind))
        verb = "read from" if action == "reading" else "written to"
        text = f"a compiled program cannot be {verb} the compilation cache ({kind}: {reason})"
        text = f"{' '.join(text.split())}; further warnings of this kind are not shown"
    print(f"kdjax: warning: {text}", file=sys.stderr)


def environment_error(error: BaseException) -> str | None:
    """Returns the line for an error of the machine or its settings; None for any other error."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
        return (
            f"out of memory: {line}; smaller batches (batch_size, eval_batch_size) or a smaller "
            "network (width, size) need less"
        )
    platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    if platforms and (jax := sys.modules.get("jax")):
        try:
            jax.devices()
        except Exception as unusable:  # the type depends on the platform
            reason = (str(unusable).splitlines() or ["no such device is installed"])[0]
            return f"JAX_PLATFORMS={platforms!r} cannot be used on this machine: {reason}"
    return None
