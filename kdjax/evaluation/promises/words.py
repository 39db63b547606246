"""Numbers in the sentences of a promise."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

_MAX_CHARACTERS = 9  # of a percentage with all its digits


def percent(share: float | None) -> str:
    """Returns a share with one decimal, such as `84.2 %`; `-` for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def measured(share: float) -> str:
    """Returns a measured share with four digits, such as `84.25 %`."""
    return f"{100 * share:.4g} %"


def exact_percent(share: float) -> str:
    """Returns a requested share without rounding, such as `0.5 %`."""
    return f"{np.format_float_positional(round(100 * share, 9), trim='-')} %"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Returns a number with its noun, such as `1 image` or `1,200 images`."""
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{number:,} {noun}"


def listed(items: Iterable[str]) -> str:
    """Returns `a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def percent_down(share: float) -> str:
    """Returns a lower bound with one decimal, rounded down."""
    return f"{math.floor(round(1000 * share, 6)) / 10:.1f} %"


def percent_up(share: float) -> str:
    """Returns an upper bound with two decimals, rounded up."""
    return f"{math.ceil(round(10000 * share, 6)) / 100:.2f} %"


def limit(share: float) -> str:
    """Returns an upper limit: one that was requested as it is, one that was computed rounded up."""
    text = exact_percent(share)
    return text if len(text) <= _MAX_CHARACTERS else percent_up(share)


def share(split: Mapping[str, int]) -> str:
    """Returns what is accepted of a split, such as `841 of 1,000 (84.1 %)`."""
    return f"{split['accepted']:,} of {split['images']:,} ({part(split)})"


def part(split: Mapping[str, int]) -> str:
    """Returns the accepted share of a split, such as `84.1 %`."""
    return percent(split["accepted"] / split["images"])


def error_rate(split: Mapping[str, int]) -> str:
    """Returns the share of errors among the accepted images of a split, or that there are none."""
    if not split["accepted"]:
        return "nothing accepted"
    return f"{100 * split['errors'] / split['accepted']:.2f} %"


def errors(split: Mapping[str, int]) -> str:
    """Returns a sentence on the errors among the accepted images of a split."""
    if not split["accepted"]:
        return "So there is no error among them."
    verb = "was" if split["errors"] == 1 else "were"
    return f"{split['errors']:,} of them {verb} wrong ({error_rate(split)})."


def in_hundred(share: float) -> str:
    """Returns a probability as a frequency, such as `5 of 100`."""
    for base in (100, 1000):
        if math.isclose(share * base, round(share * base), rel_tol=1e-9):
            return f"{round(share * base):,} of {base:,}"
    return f"{100 * share:.3g} of 100"


def all_of(number: int, noun: str) -> str:
    """Returns `both models`, or `all 3 models`.

    Args:
        number: at least two.
        noun: in the plural.
    """
    return f"both {noun}" if number == 2 else f"all {number:,} {noun}"


def alone(delta: float) -> str:
    """Returns the scope of a statement that holds alone."""
    return f"Holds alone, with a probability of at least {exact_percent(1 - delta)}"


def together(delta: float, what: str) -> str:
    """Returns the scope of a statement with several parts, such as `all rows`."""
    return f"Here {what} hold together, with a probability of at least {exact_percent(1 - delta)}"
