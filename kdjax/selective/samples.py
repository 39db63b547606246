"""What metrics and calibration check of a sample, before any arithmetic."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError


def floats(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns real numbers of any shape as float64.

    Raises:
        TypeError: for a dtype that is not real.
    """
    values = np.asarray(values)
    if not np.can_cast(values.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name} of dtype {values.dtype}: need real numbers")
    return values.astype(np.float64)


def filled(name: str, values: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Returns real numbers of `ndim` dimensions, none of them empty, as float64.

    Raises:
        ValueError: for another shape.
        TypeError: for a dtype that is not real.
    """
    array = floats(name, values)
    if array.ndim != ndim or not array.size:
        raise InputError(f"{name} of shape {array.shape}: need {ndim} dimension(s), none empty")
    return array


def require(holds: ArrayLike, values: ArrayLike, rule: str) -> None:
    """Checks a rule value by value.

    Raises:
        ValueError: with the rule and the first value that breaks it.
    """
    broken = np.asarray(values)[~np.asarray(holds)]
    if broken.size:
        raise InputError(f"{rule}: got {broken[0]}")


def fractions(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns numbers of any shape in (0, 1] as float64.

    Raises:
        ValueError: for a value outside (0, 1].
        TypeError: for a dtype that is not real.
    """
    array = floats(name, values)
    require((array > 0) & (array <= 1), array, f"{name} must lie in (0, 1]")
    return array


def probability(name: str, value: float) -> float:
    """Returns one number in (0, 1).

    Raises:
        ValueError: for a value outside (0, 1), or more than one.
        TypeError: for a dtype that is not real.
    """
    number = _number(name, value)
    require(0 < number < 1, number, f"{name} must lie in (0, 1)")
    return number


def integer(name: str, value: float, *, least: int) -> int:
    """Returns one integer, at least `least`.

    Raises:
        ValueError: for a smaller value, a fraction, or more than one.
        TypeError: for a dtype that is not real.
    """
    number = _number(name, value)
    require(number >= least and number.is_integer(), value, f"{name}: need an integer >= {least}")
    return int(value)


def _number(name: str, value: float) -> float:
    array = floats(name, value)
    if array.ndim:
        raise InputError(f"{name} of shape {array.shape}: need one number")
    return float(array)


def confidences(values: ArrayLike) -> NDArray[np.float64]:
    """Returns confidences `[n]`, n >= 1, as float64; infinite ones rank like any other.

    Raises:
        ValueError: for another shape, or NaN.
        TypeError: for a dtype that is not real.
    """
    array = filled("confidence", values, ndim=1)
    require(~np.isnan(array), array, "confidence must not be NaN, which has no rank")
    return array


def paired(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns confidences `[n]` as float64 with whether each prediction is right, `[n]`.

    Raises:
        ValueError: for n = 0, two lengths, NaN, or a `correct` other than true, false, 0, 1.
        TypeError: for a dtype that is not real.
    """
    ranks = confidences(confidence)
    right = floats("correct", correct)
    if right.shape != ranks.shape:
        raise InputError(f"correct of shape {right.shape}: these confidences need {ranks.shape}")
    require((right == 0) | (right == 1), right, "correct must be boolean or 0 and 1")
    return ranks, right.astype(bool)
