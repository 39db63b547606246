"""Numbers and names as text for a page."""

from kdjax.selective import Interval

SPACE = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"


def percent(share: float | None) -> str:
    """Returns a share for a sentence: `81.2 %`; below 1 % and above 99 % with two digits."""
    if share is None:
        return NONE
    value = 100 * share
    digits = 0 if value in (0, 100) else 1 if 1 <= value <= 99 else 2
    return f"{value:.{digits}f}{SPACE}%"


def exact_percent(share: float) -> str:
    """Returns a requested share, such as a risk, without rounding."""
    return f"{100 * share:.6g}{SPACE}%"


def cell(share: float | None) -> str:
    """Returns a share for a table column in percent."""
    return NONE if share is None else f"{100 * share:.2f}"


def interval(low: float, high: float) -> str:
    """Returns an interval of shares for a sentence."""
    return f"{percent(low)} to {percent(high)}"


def with_interval(values: Interval, factor: float = 100, *, sign: str = "") -> str:
    """Returns a table cell of two lines: the estimate, and its interval (or `too few`) below.

    Args:
        values: the estimate and the ends of its interval.
        factor: by which they are multiplied.
        sign: `+` to write the sign of positive numbers too, for differences.
    """
    estimate, low, high = (f"{factor * value:{sign}.2f}" for value in values)
    if not values.exists:
        return f"{estimate}\ntoo{SPACE}few"
    separator = f"{SPACE}to{SPACE}" if sign else NONE  # a dash would read as a minus sign
    return f"{estimate}\n{low}{separator}{high}"
