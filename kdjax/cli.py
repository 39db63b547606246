"""Shared by the commands: flags, one-line error messages and exit statuses."""

import functools
import itertools
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from kdjax.errors import InputError, Preempted, unknown_name_error

USAGE = 2
FAILED = 1
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the command can be run again

# `--help` lists the flags of the main module: those that are defined below belong to the caller.
flags.disclaim_key_flags()


class RunFlags(NamedTuple):
    """Flags of the commands that read a finished run; None where a flag is not given.

    Attributes:
        data_dir: the TFDS directory.
        risk: risk of the certificate.
        delta: probability that the certificate does not hold.
    """

    data_dir: flags.FlagHolder[str | None]
    risk: flags.FlagHolder[float | None]
    delta: flags.FlagHolder[float | None]


def define_run_flags() -> RunFlags:
    """Defines `--data_dir`, `--risk` and `--delta` for a command."""
    return RunFlags(
        flags.DEFINE_string("data_dir", None, "the TFDS directory [as in the run's config]"),
        flags.DEFINE_float(
            "risk", None, "selective risk that the certificate guarantees [as in the run's config]"
        ),
        flags.DEFINE_float(
            "delta",
            None,
            "probability that the certificate does not hold [as in the run's config]",
        ),
    )


def run(main: Callable[..., None], *, positional: str = "") -> None:
    """Parses the flags, runs the command and exits.

    Exit status: 0 on success, 2 for invalid input, 1 for a failed run, 75 after SIGTERM. An error
    of kdjax itself is printed with its traceback.

    Args:
        main: the command, called after the flags are parsed; with `positional`, it gets the list
            of the positional arguments.
        positional: name of the positional arguments for messages, such as `"IMAGE..."`; at least
            one must be given. Empty: the command takes none.
    """
    logging.set_verbosity(logging.ERROR)  # JAX, TFDS and Orbax log many lines below this level
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    flags.FLAGS.set_gnu_getopt()  # flags may follow positional arguments
    app.run(
        lambda argv: _run_command(functools.partial(main, argv[1:]) if positional else main),
        flags_parser=functools.partial(_parse, positional),
    )


def _parse(positional: str, argv: Sequence[str]) -> list[str]:
    try:
        _check_config_flags(argv)
        remaining = flags.FLAGS(list(argv))
        _check_positional(positional, remaining[1:])
    except (flags.Error, TypeError, ValueError, OSError) as error:
        _exit_with_error(error, USAGE)
    return remaining


def _check_positional(positional: str, arguments: Sequence[str]) -> None:
    if arguments and not positional:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are written --name=value")
    if positional and not arguments:
        raise InputError(f"no {positional} given: --help shows the usage")


def _check_config_flags(argv: Sequence[str]) -> None:
    """Checks the config file and the names of the fields before ml_collections parses them.

    Raises:
        InputError: for a missing file or an unknown field, with the nearest name.
    """
    path = _config_file(argv)
    if path is None:
        return
    if not path.is_file():
        raise _missing_config_error(path)
    names = [flag.lstrip("-").partition("=")[0] for flag in argv if flag.startswith("-")]
    fields = {name.removeprefix("no") for name in names if "config." in name}
    if fields:
        # Imported here because kdjax.config imports JAX.
        from kdjax.config import field_names, unknown_field_error

        config = ConfigFileFlagParser("config").parse(str(path))
        known = {f"config.{name}" for name in field_names(config)}
        for name in sorted(fields - known):
            raise unknown_field_error("config field", name, known)


def _config_file(argv: Sequence[str]) -> pathlib.Path | None:
    """Returns the value of the last `--config` flag."""
    path = None
    for flag, following in itertools.pairwise([*argv, ""]):
        name, equals, value = flag.partition("=")
        if name in ("--config", "-config"):
            path = pathlib.Path(value if equals else following)
    return path


def _missing_config_error(path: pathlib.Path) -> InputError:
    candidates = [str(file) for file in path.parent.glob("*.py")]
    if candidates:
        return unknown_name_error("config file", str(path), candidates)
    return InputError(f"no config file {str(path)!r}")


def _run_command(main: Callable[[], None]) -> None:
    """Calls the command and turns exceptions into error messages and exit statuses."""
    signal.signal(signal.SIGTERM, _raise_preempted)
    try:
        main()
    except InputError as error:
        _exit_with_error(error, USAGE)
    except FloatingPointError as error:
        _exit_with_error(error, FAILED)
    except KeyboardInterrupt:
        _exit_with_error(
            KeyboardInterrupt("interrupted; run the same command again to continue"), FAILED
        )
    except Preempted as error:
        _exit_with_error(error, PREEMPTED)
    except Exception as error:
        _exit_on_peer_failure(error)  # the error may only be a consequence of a peer's failure
        if isinstance(error, OSError):
            _exit_with_error(error, FAILED)
        traceback.print_exc()
        _broadcast_failure(f"{type(error).__name__}: {error}", FAILED)
        sys.exit(FAILED)


def _raise_preempted(*_: object) -> None:
    raise Preempted("stopped by SIGTERM; run the same command again to continue")


def _exit_with_error(error: BaseException, status: int) -> None:
    # The layout of our own messages is kept; those of libraries are joined into one line.
    text = str(error) if isinstance(error, InputError) else " ".join(str(error).split())
    print(f"kdjax: error: {text or type(error).__name__}", file=sys.stderr, flush=True)
    _broadcast_failure(text, status)
    sys.exit(status)


def _multihost() -> Any:
    """Returns the module `multihost`, or None in a command that has not imported it."""
    return sys.modules.get("kdjax.runtime.multihost")


def _exit_on_peer_failure(error: Exception) -> None:
    if multihost := _multihost():
        multihost.check_peers()
        if multihost.is_peer_failure(error):
            message = (
                "another process of the run has died; run the same command again in all processes"
                " to continue"
            )
            _exit_with_error(RuntimeError(f"{message} ({error})"), FAILED)


def _broadcast_failure(text: str, status: int) -> None:
    if multihost := _multihost():
        multihost.broadcast_failure(text, status)


def _print_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"kdjax: warning: {' '.join(str(message).split())}", file=sys.stderr)
