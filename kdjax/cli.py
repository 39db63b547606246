"""Shared by the commands: flags, one-line error messages and exit statuses."""

import functools
import itertools
import pathlib
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from kdjax import field_types, process
from kdjax.errors import InputError, Preempted, unknown_name_error
from kdjax.runtime.paths import user_path

USAGE = 2
FAILED = process.FAILED
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the command can be run again

# `--help` lists the flags of the main module: those that are defined below belong to the caller.
flags.disclaim_key_flags()


class _FieldParser(flags.ArgumentParser):
    """Parses the value of a config field as `resolve` does that of a config file."""

    def __init__(self, kind: type) -> None:
        self._convert, self._description = field_types.TYPES[kind]

    def parse(self, argument: Any) -> Any:
        value = self._convert(argument)
        if value is None:
            raise ValueError(f"{argument!r} is not {self._description}")
        return value


for _type in (int, float, bool):
    config_flags.register_flag_parser_for_type(_type, _FieldParser(_type))


class _PathParser(flags.ArgumentParser):
    """Replaces a leading `~`, which the shell does not replace after `--name=`."""

    def parse(self, argument: str) -> str:
        return str(user_path(argument)) if argument.startswith("~") else argument


def define_path(name: str, help_text: str) -> flags.FlagHolder[str | None]:
    """Defines a flag for a file or a folder."""
    return flags.DEFINE(_PathParser(), name, None, help_text)


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
        define_path("data_dir", "the TFDS directory [as in the run's config]"),
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
    process.prepare()
    logging.set_verbosity(logging.ERROR)  # JAX, TFDS and Orbax log many lines below this level
    flags.FLAGS.set_gnu_getopt()  # flags may follow positional arguments
    try:
        app.run(
            lambda argv: _run_command(functools.partial(main, argv[1:]) if positional else main),
            flags_parser=functools.partial(_parse, positional),
        )
    except KeyboardInterrupt as error:
        _exit_interrupted(error)
    finally:
        process.discard_unwritable_output()


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
        InputError: for a missing or failing file, or an unknown field, with the nearest name.
    """
    path = _config_file(argv)
    if path is None:
        return
    if not path.is_file():
        raise _missing_config_error(path)
    config = _load_config(path)
    names = [flag.lstrip("-").partition("=")[0] for flag in argv if flag.startswith("-")]
    fields = {name.removeprefix("no") for name in names if "config." in name}
    if fields:
        # Imported here because kdjax.config imports JAX.
        from kdjax.config import field_names, unknown_field_error

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


def _load_config(path: pathlib.Path) -> ConfigDict:
    """Returns what `get_config` of a config file returns.

    Raises:
        InputError: naming file, line and error, if the file fails or does not define a config.
    """
    if ":" in str(path):  # ml_collections would pass what follows to get_config
        raise InputError(f"config file {str(path)!r}: the path must not contain ':'")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {str(path)!r} does not define a function get_config()")
        config = get_config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(_config_error(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"get_config() of {str(path)!r} returns {type(config).__name__}, not a ConfigDict: "
            "start from kdjax.config.base() and return it"
        )
    return config


def _config_error(path: pathlib.Path, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    reason = (str(error).splitlines() or [""])[0]
    where = f"config file {str(path)!r}" + (f", line {line}" if line else "")
    return f"{where}: {type(error).__name__}: {reason}"


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
        sys.stdout.flush()  # an error is reported here, not when Python exits
    except InputError as error:
        _exit_with_error(error, USAGE)
    except FloatingPointError as error:
        _exit_with_error(error, FAILED)
    except KeyboardInterrupt as error:
        _exit_interrupted(error)
    except Preempted as error:
        _exit_with_error(error, PREEMPTED)
    except Exception as error:
        _exit_on_peer_failure(error)  # the error may only be a consequence of a peer's failure
        if isinstance(error, OSError):
            _exit_with_error(error, FAILED)
        if line := process.environment_error(error):
            _exit_with_error(RuntimeError(line), FAILED)
        traceback.print_exc()
        _broadcast_failure(f"{type(error).__name__}: {error}", FAILED)
        sys.exit(FAILED)


def _raise_preempted(*_: object) -> None:
    raise Preempted("stopped by SIGTERM; run the same command again to continue")


def _exit_interrupted(error: KeyboardInterrupt) -> None:
    process.finish_interrupted()
    _exit_with_error(KeyboardInterrupt(str(error) or process.INTERRUPTED), FAILED)


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
