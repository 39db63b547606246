"""What a user's mistake looks like: one exception, one line, the nearest valid name."""

import difflib
from collections.abc import Iterable


class Preempted(BaseException):
    """The machine is wanted for something else: what was reached is saved.

    No `Exception`, as `KeyboardInterrupt` is none: it may come at any moment, and whoever catches
    what went wrong there must not catch this.
    """


class InputError(ValueError):
    """A mistake in what the user gave; its message is one line that says how to mend it."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns the allowed name that looks most like `name`."""
    choices = sorted(allowed)
    return (difflib.get_close_matches(name, choices, n=1, cutoff=0.0) or ["nothing"])[0]


def unknown(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """Returns the error for a name that is not one of `allowed`.

    Args:
        kind: what the name names, such as `"method"`.
        name: what was given.
        allowed: the valid names.
    """
    choices = sorted(allowed)
    hint = nearest(str(name), choices)
    valid = ", ".join(choices)
    return InputError(f"unknown {kind} {name!r}: did you mean {hint!r}? Valid: {valid}")
