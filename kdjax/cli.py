"""Shared by the commands: flags, one-line error messages and exit statuses."""

import contextlib
import functools
import itertools
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import config_flags

from kdjax import config_files, extras, field_types, process
from kdjax.errors import InputError, Preempted
from kdjax.paths import user_path

USAGE = 2
FAILED = process.FAILED
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the command can be run again

# Flags of absl, which `--help` does not list.
_ABSL_FLAGS = ("help", "helpfull", "helpshort", "helpxml", "?", "only_check_args")
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


class _DictParser(flags.ArgumentParser):
    """Keeps the text of a field that is a dict in the config file: `resolve` reads it as JSON."""

    def parse(self, argument: Any) -> Any:
        return argument


for _type in (int, float, bool):
    config_flags.register_flag_parser_for_type(_type, _FieldParser(_type))
config_flags.register_flag_parser_for_type(dict, _DictParser())


class _PathParser(flags.ArgumentParser):
    """Replaces a leading `~`, which the shell does not replace after `--name=`."""

    def parse(self, argument: str) -> str:
        if not argument:  # as of an unset variable of a shell: no path is not the default path
            raise ValueError("the path is empty")
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


class CascadeFlags(NamedTuple):
    """Flags of the commands that let a second model answer the rest.

    Attributes:
        fallback: folder of the second model.
        threshold: see `kdjax.predict.load_cascade`, as the following ones.
        fallback_abstains: whether the second model may abstain.
        fallback_batch_size: of the second model.
    """

    fallback: flags.FlagHolder[str | None]
    threshold: flags.FlagHolder[str | None]
    fallback_abstains: flags.FlagHolder[bool]
    fallback_batch_size: flags.FlagHolder[int | None]

    def options(self) -> dict[str, Any]:
        """Returns the arguments of `kdjax.predict.load_cascade`; empty without `--fallback`.

        Raises:
            InputError: for another one of these flags without `--fallback`.
        """
        if self.fallback.value is not None:
            return {holder.name: holder.value for holder in self}
        for holder in self:
            if holder.value != holder.default:
                value = "" if holder.value is True else f"={holder.value}"
                raise InputError(f"--{holder.name}{value} needs --fallback")
        return {}


def define_cascade_flags() -> CascadeFlags:
    """Defines `--fallback` and the flags that need it for a command."""
    return CascadeFlags(
        define_path("fallback", "a second model, which answers what the first does not"),
        flags.DEFINE_string(
            "threshold",
            None,
            "with --fallback: the first model answers from this score on, or all, or none [the "
            "certified one for this fallback, or what the model accepts]",
        ),
        flags.DEFINE_bool(
            "fallback_abstains", False, "the fallback abstains from what it does not accept"
        ),
        flags.DEFINE_integer(
            "fallback_batch_size", None, "images per batch of the fallback [as --batch_size]"
        ),
    )


def run(main: Callable[..., None], *, positional: str = "", needs: Sequence[str] = ()) -> None:
    """Parses the flags, runs the command and exits.

    Exit status: 0 on success, 2 for invalid input, 1 for a failed run, 75 after SIGTERM. An error
    of kdjax itself is printed with its traceback.

    Args:
        main: the command, called after the flags are parsed; with `positional`, it gets the list
            of the positional arguments.
        positional: name of the positional arguments for messages, such as `"IMAGE..."`; at least
            one must be given, unless the name is in brackets. Empty: the command takes none.
        needs: keys of `extras.EXTRAS`, without which the command cannot run.
    """
    process.prepare()
    logging.set_verbosity(logging.ERROR)  # JAX, TFDS and Orbax log many lines below this level
    flags.FLAGS.set_gnu_getopt()  # flags may follow positional arguments
    try:
        app.run(
            lambda argv: _run_command(
                functools.partial(main, argv[1:]) if positional else main, needs
            ),
            flags_parser=functools.partial(_parse, positional),
        )
    except KeyboardInterrupt as error:
        _exit_interrupted(error)
    finally:
        process.discard_unwritable_output()


def _parse(positional: str, argv: Sequence[str]) -> list[str]:
    try:
        if _asks_help(argv):
            with contextlib.suppress(BrokenPipeError):  # as of `kdjax train --help | head`
                _show_help(argv)
            sys.exit(0)
        # ml_collections reads the fields from sys.argv.
        sys.argv[1:] = _checked_config_flags(argv)[1:]
        remaining = flags.FLAGS(sys.argv)
        _check_positional(positional, remaining[1:])
    except (flags.Error, TypeError, ValueError, OSError) as error:
        _exit_with_error(error, USAGE)
    return remaining


def _check_positional(positional: str, arguments: Sequence[str]) -> None:
    if arguments and not positional:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are written --name=value")
    if positional and not positional.startswith("[") and not arguments:
        raise InputError(f"no {positional} given: --help shows the usage")


def _checked_config_flags(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with the path of the config file, which ml_collections parses.

    Raises:
        InputError: for a missing or failing file, or an unknown field, with the nearest name.
    """
    replaced, path = config_files.with_path(argv)
    if path is None:
        return replaced
    config = config_files.load(path, config_files.size_argument(argv))
    names = [flag.lstrip("-").partition("=")[0] for flag in argv if flag.startswith("-")]
    fields = {name.removeprefix("no") for name in names if "config." in name}
    if fields:
        # Imported here because kdjax.config_fields imports Flax.
        from kdjax.config_fields import field_names, unknown_field_error

        known = {f"config.{name}" for name in field_names(config)}
        for name in sorted(fields - known):
            raise unknown_field_error("config field", name, known)
    return config_files.expand(replaced, path)


def _asks_help(argv: Sequence[str]) -> bool:
    options = set(itertools.takewhile(lambda word: word != "--", argv))
    return not options.isdisjoint(("--help", "-h"))


def _show_help(argv: Sequence[str]) -> None:
    """Prints usage and flags of the command, and the fields of the config with their comments."""
    module = sys.modules["__main__"]
    print(f"{(module.__doc__ or '').strip()}\n\nFlags [default]:")
    known = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    for flag in sorted(known, key=lambda flag: flag.name):
        if flag.name not in _ABSL_FLAGS:
            is_shown = flag.default in (None, "", False) or "[" in flag.help
            default = "" if is_shown else f" [{flag.default}]"
            print(f"  --{flag.name}: {flag.help}{default}")
    if any(flag.name == "config" for flag in known):
        from kdjax import config, config_help

        _, path = config_files.with_path(argv)
        values = config_files.load(path) if path else config.base()
        print(f"\nFields of the config [{f'value in {path}' if path else 'default'}]:")
        print(config_help.help_text(values))


def _run_command(main: Callable[[], None], needs: Sequence[str]) -> None:
    """Calls the command and turns exceptions into error messages and exit statuses."""
    signal.signal(signal.SIGTERM, _raise_preempted)
    try:
        extras.require(*needs)
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
        if isinstance(error, ModuleNotFoundError) and (
            missing := extras.missing_library_error(error)
        ):
            _exit_with_error(missing, USAGE)
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
