"""Exceptions of kdjax, and error messages that name the nearest valid name."""

import difflib
from collections.abc import Iterable


class Preempted(BaseException):
    """Raised after SIGTERM, once the state is checkpointed.

    Derived from `BaseException`, like `KeyboardInterrupt`: it can be raised at any moment, and
    handlers of ordinary errors must not catch it.
    """


class InputError(ValueError):
    """Invalid input of the user; the message is one line that says how to correct it."""


def nearest_name(name: str, allowed: Iterable[str]) -> str:
    """Returns the allowed name that is most similar to `name`; "nothing" if there is none."""
    # Of names that differ in case only, the last one; both are in the list of valid names.
    by_folded = {choice.casefold(): choice for choice in sorted(allowed)}
    close = difflib.get_close_matches(name.casefold(), sorted(by_folded), n=1, cutoff=0.0)
    return by_folded[close[0]] if close else "nothing"


def unknown_name_error(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """Returns the error for a name that is not one of `allowed`.

    Args:
        kind: what the name refers to, such as `"method"`.
        name: the name that was given.
        allowed: the valid names.
    """
    choices = sorted(allowed)
    hint = nearest_name(str(name), choices)
    valid = ", ".join(choices)
    return InputError(f"unknown {kind} {name!r}: did you mean {hint!r}? Valid: {valid}")
