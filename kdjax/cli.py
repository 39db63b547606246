"""What every command shares: flags in, one clear line for a user's mistake, an exit status."""

import itertools
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from kdjax.errors import InputError, nearest, unknown

USAGE = 2
FAILED = 1


def run(main: Callable[[], None]) -> None:
    """Parses the flags, runs the command and exits.

    Exit status 0 on success, 2 for a mistake in what was given, 1 for a run that failed; a fault
    of kdjax itself keeps its traceback.

    Args:
        main: the command, once the flags are parsed.
    """
    logging.set_verbosity(logging.ERROR)  # JAX, TFDS and Orbax tell much of how they work
    warnings.showwarning = _one_line  # type: ignore[assignment]
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        _check_config_flags(argv)
        rest = flags.FLAGS(list(argv))
    except (flags.Error, TypeError, ValueError, OSError) as error:
        _exit(error, USAGE)
    if len(rest) > 1:
        _exit(ValueError(f"unexpected argument {rest[1]!r}: flags are written --name=value"), USAGE)
    return rest


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
    try:
        main()
    except InputError as error:
        _exit(error, USAGE)
    except (FloatingPointError, OSError) as error:
        _exit(error, FAILED)
    except KeyboardInterrupt:
        _exit(KeyboardInterrupt("interrupted; the same command continues"), FAILED)


def _exit(error: BaseException, status: int) -> None:
    # Our own messages are laid out; those of others may run over many lines.
    text = str(error) if isinstance(error, InputError) else " ".join(str(error).split())
    print(f"kdjax: error: {text or type(error).__name__}", file=sys.stderr)
    sys.exit(status)


def _one_line(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"kdjax: warning: {' '.join(str(message).split())}", file=sys.stderr)
