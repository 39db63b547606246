"""How a page writes numbers and names."""

from collections.abc import Iterable

from kdjax.selective import Interval

SPACE = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"


def percent(share: float | None) -> str:
    """Returns a share in a sentence: `81.2 %`; near none and near all with one digit more."""
    if share is None:
        return NONE
    value = 100 * share
    digits = 0 if value in (0, 100) else 1 if 1 <= value <= 99 else 2
    return f"{value:.{digits}f}{SPACE}%"


def exactly(share: float) -> str:
    """Returns a share that was asked for, with the digits that it was given with."""
    return f"{100 * share:.6g}{SPACE}%"


def cell(share: float | None) -> str:
    """Returns a share in a column of percents."""
    return NONE if share is None else f"{100 * share:.2f}"


def between(low: float, high: float) -> str:
    """Returns an interval of shares in a sentence."""
    return f"{percent(low)} to {percent(high)}"


def with_interval(value: Interval, factor: float = 100, *, sign: str = "") -> str:
    """Returns an estimate over its interval, for a cell of two lines; sign `+` for a difference."""
    estimate, low, high = (f"{factor * one:{sign}.2f}" for one in value)
    between = f"{SPACE}to{SPACE}" if sign else NONE  # a dash would read as a minus
    return f"{estimate}\n{low}{between}{high}"


def score(name: str) -> str:
    """Returns the name of a confidence score as the literature has it."""
    return {"max_logit_pnorm": "MaxLogit-pNorm"}.get(name, name.replace("_", " "))


def listed(items: Iterable[str]) -> str:
    """Returns `a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
