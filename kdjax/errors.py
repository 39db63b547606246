"""Exceptions of kdjax, and error messages that name the nearest valid name."""

import difflib
from collections.abc import Iterable

# Least ratio of `difflib.SequenceMatcher` of similar names, the default of `get_close_matches`.
_LEAST_RATIO = 0.6


class Preempted(BaseException):
    """Raised after SIGTERM, once the state is checkpointed.

    Derived from `BaseException`, like `KeyboardInterrupt`: it can be raised at any moment, and
    handlers of ordinary errors must not catch it.
    """


class InputError(ValueError):
    """Invalid input of the user; the message is one line that says how to correct it."""


def are_similar(name: str, other: str) -> bool:
    """Returns whether a name may be another one misspelt or cut off, without regard to case."""
    first, second = name.casefold(), other.casefold()
    starts = first.startswith(second) or second.startswith(first)
    return _ratio(first, second) >= _LEAST_RATIO or (starts and min(len(first), len(second)) > 1)


def nearest_name(name: str, allowed: Iterable[str]) -> str | None:
    """Returns the allowed name that is most similar to `name`; None if none is similar."""
    # Of names that differ in case only, the last one; both are in the list of valid names.
    similar = [choice for choice in sorted(allowed, reverse=True) if are_similar(name, choice)]
    return max(similar, key=lambda choice: _ratio(name.casefold(), choice.casefold()), default=None)


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Returns ": did you mean 'NAME'?" with the nearest allowed name; empty if none is similar."""
    near = nearest_name(name, allowed)
    return "" if near is None else f": did you mean {near!r}?"


def unknown_name_error(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """Returns the error for a name that is not one of `allowed`.

    Args:
        kind: what the name refers to, such as `"method"`.
        name: the name that was given.
        allowed: the valid names.
    """
    choices = sorted(allowed)
    hint, valid = suggestion(str(name), choices), ", ".join(choices)
    return InputError(f"unknown {kind} {name!r}{f'{hint} Valid' if hint else '; valid'}: {valid}")


def _ratio(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()
