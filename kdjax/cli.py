"""What every command shares: flags in, one clear line for a user's mistake, an exit status."""

import functools
import itertools
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from kdjax.errors import InputError, Preempted, nearest, unknown

USAGE = 2
FAILED = 1
PREEMPTED = 75  # EX_TEMPFAIL: try again


def run(main: Callable[..., None], *, positional: str = "") -> None:
    """Parses the flags, runs the command and exits.

    Exit status 0 on success, 2 for a mistake in what was given, 1 for a run that failed, 75 after
    SIGTERM; a fault of kdjax itself keeps its traceback.

    Args:
        main: the command, once the flags are parsed; given the list of the arguments that are no
            flags, if it takes any.
        positional: what those are, such as `"IMAGE..."`, at least one; empty: it takes none.
    """
    logging.set_verbosity(logging.ERROR)  # JAX, TFDS and Orbax tell much of how they work
    warnings.showwarning = _one_line  # type: ignore[assignment]
    flags.FLAGS.set_gnu_getopt()  # flags may follow other arguments
    app.run(
        lambda rest: _guarded(functools.partial(main, rest[1:]) if positional else main),
        flags_parser=functools.partial(_parse, positional),
    )


def _parse(positional: str, argv: Sequence[str]) -> list[str]:
    try:
        _check_config_flags(argv)
        rest = flags.FLAGS(list(argv))
        _check_positional(positional, rest[1:])
    except (flags.Error, TypeError, ValueError, OSError) as error:
        _exit(error, USAGE)
    return rest


def _check_positional(positional: str, arguments: Sequence[str]) -> None:
    if arguments and not positional:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are written --name=value")
    if positional and not arguments:
        raise InputError(f"no {positional} given: --help shows how the command is written")


def _check_config_flags(argv: Sequence[str]) -> None:
    """Names a missing config file or an unknown field before ml_collections trips over it.

    Raises:
        InputError: with the nearest name that exists.
    """
    names = [flag.lstrip("-").partition("=")[0] for flag in argv if flag.startswith("-")]
    path = _config_file(argv)
    if path is None:
        return
    if not path.is_file():
        there = [str(other) for other in path.parent.glob("*.py")]
        if not there:
            raise InputError(f"no config file {str(path)!r}")
        raise unknown("config file", str(path), there)
    fields = {name.removeprefix("no") for name in names if "config." in name}
    if fields:
        from kdjax.config import leaves  # brings JAX

        found = ConfigFileFlagParser("config").parse(str(path))
        known = {f"config.{name}" for name in leaves(found)}
        for name in sorted(fields - known):
            raise unknown("config field", name, [nearest(name, known)])


def _config_file(argv: Sequence[str]) -> pathlib.Path | None:
    found = None
    for flag, following in itertools.pairwise([*argv, ""]):
        name, equals, value = flag.partition("=")
        if name in ("--config", "-config"):
            found = pathlib.Path(value if equals else following)
    return found


def _guarded(main: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
    except InputError as error:
        _exit(error, USAGE)
    except FloatingPointError as error:
        _exit(error, FAILED)
    except KeyboardInterrupt:
        _exit(KeyboardInterrupt("interrupted; the same command continues"), FAILED)
    except Preempted as error:
        _exit(error, PREEMPTED)
    except Exception as error:
        _heed_others(error)  # it may be but the echo of their failure
        if isinstance(error, OSError):
            _exit(error, FAILED)
        traceback.print_exc()
        _end_others(f"{type(error).__name__}: {error}", FAILED)
        sys.exit(FAILED)


def _terminated(*_: object) -> None:
    raise Preempted("stopped by SIGTERM; the same command continues")


def _exit(error: BaseException, status: int) -> None:
    # Our own messages are laid out; those of others may run over many lines.
    text = str(error) if isinstance(error, InputError) else " ".join(str(error).split())
    print(f"kdjax: error: {text or type(error).__name__}", file=sys.stderr, flush=True)
    _end_others(text, status)
    sys.exit(status)


def _heed_others(error: Exception) -> None:
    parallel = sys.modules.get("kdjax.parallel")  # a command that never needed it is alone
    if parallel:
        parallel.heed()
        if parallel.lost(error):
            message = "another process of the run has died; the same command, for all, continues"
            _exit(RuntimeError(f"{message} ({error})"), FAILED)


def _end_others(text: str, status: int) -> None:
    if parallel := sys.modules.get("kdjax.parallel"):
        parallel.fail(text, status)


def _one_line(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"kdjax: warning: {' '.join(str(message).split())}", file=sys.stderr)
