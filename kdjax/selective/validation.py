"""Checks of the inputs of metrics, calibration and certificates."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError


def floats(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns real numbers of any shape as float64.

    Raises:
        TypeError: for a dtype that is not real.
    """
    return _real(name, values).astype(np.float64)


def decimals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns real numbers of any shape as float64.

    A float32 or float16 number becomes its shortest decimal: 0.1, not 0.100000001.

    Raises:
        TypeError: for a dtype that is not real.
    """
    array, given = floats(name, values), np.asarray(values)
    if given.dtype == np.float32 or given.dtype == np.float16:
        return np.array([float(str(value)) for value in given.flat]).reshape(given.shape)
    return array


def nonempty(name: str, values: ArrayLike, *, ndim: int) -> NDArray[np.float64]:
    """Returns a non-empty array of real numbers with `ndim` dimensions as float64.

    Raises:
        ValueError: for another shape.
        TypeError: for a dtype that is not real.
    """
    return nonempty_real(name, values, ndim=ndim).astype(np.float64)


def nonempty_real(name: str, values: ArrayLike, *, ndim: int) -> NDArray[Any]:
    """Returns a non-empty array of real numbers with `ndim` dimensions, of its own dtype.

    Raises:
        ValueError: for another shape.
        TypeError: for a dtype that is not real.
    """
    array = _real(name, values)
    if array.ndim != ndim or not array.size:
        raise InputError(f"{name} of shape {array.shape}: need {ndim} dimension(s), none empty")
    return array


def _real(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name} of dtype {array.dtype}: need real numbers")
    return array


def require(condition: ArrayLike, values: ArrayLike, rule: str) -> None:
    """Checks an elementwise condition.

    Raises:
        ValueError: with the rule and the first value that violates it.
    """
    invalid = np.asarray(values)[~np.asarray(condition)]
    if invalid.size:
        raise InputError(f"{rule}: got {invalid[0]}")


def fractions(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Returns numbers of any shape in (0, 1] as float64; see `decimals`.

    Raises:
        ValueError: for a value outside (0, 1].
        TypeError: for a dtype that is not real.
    """
    array = decimals(name, values)
    require((array > 0) & (array <= 1), array, f"{name} must lie in (0, 1]")
    return array


def fraction(name: str, value: float) -> float:
    """Returns a number in (0, 1].

    Raises:
        ValueError: for a value outside (0, 1], or an array.
        TypeError: for a dtype that is not real.
    """
    return float(fractions(name, number(name, value)))


def probability(name: str, value: float) -> float:
    """Returns a number in (0, 1).

    Raises:
        ValueError: for a value outside (0, 1), or an array.
        TypeError: for a dtype that is not real.
    """
    checked = number(name, value)
    require(0 < checked < 1, checked, f"{name} must lie in (0, 1)")
    return checked


def share(name: str, value: float) -> float:
    """Returns a number in [0, 1).

    Raises:
        ValueError: for a value outside [0, 1), or an array.
        TypeError: for a dtype that is not real.
    """
    checked = number(name, value)
    require(0 <= checked < 1, checked, f"{name} must lie in [0, 1)")
    return checked


def integer(name: str, value: float, *, least: int) -> int:
    """Returns an integer >= `least`.

    Raises:
        ValueError: for a smaller value, a fraction, or an array.
        TypeError: for a dtype that is not real.
    """
    checked = number(name, value)
    require(checked >= least and checked.is_integer(), value, f"{name}: need an integer >= {least}")
    return int(value)


def number(name: str, value: float) -> float:
    """Returns one real number; see `decimals`.

    Raises:
        ValueError: for an array.
        TypeError: for a dtype that is not real.
    """
    array = decimals(name, value)
    if array.ndim:
        raise InputError(f"{name} of shape {array.shape}: need one number")
    return float(array)


def codes(
    name: str, values: ArrayLike, *, shape: tuple[int, ...], number: int
) -> NDArray[np.int64]:
    """Returns integers in 0..number - 1, such as class labels, as int64.

    Raises:
        ValueError: for another shape, or a value out of range.
        TypeError: for a dtype that is not an integer; an empty array may have any.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} of dtype {array.dtype}: need integers")
    if array.shape != shape:
        raise InputError(f"{name} of shape {array.shape}: need {shape}")
    require((array >= 0) & (array < number), array, f"{name} must lie in 0..{number - 1}")
    return array.astype(np.int64)


def confidences(values: ArrayLike) -> NDArray[np.float64]:
    """Returns confidences `[n]`, n >= 1, as float64; they may be infinite.

    Raises:
        ValueError: for another shape, or NaN.
        TypeError: for a dtype that is not real.
    """
    array = nonempty("confidence", values, ndim=1)
    require(~np.isnan(array), array, "confidence must not be NaN")
    return array


def sample(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns confidences `[n]` as float64, and whether each prediction is correct as bool `[n]`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, or a `correct` other than true, false, 0, 1.
        TypeError: for a dtype that is not real.
    """
    ranks = confidences(confidence)
    return ranks, booleans("correct", correct, shape=ranks.shape)


def booleans(
    name: str, values: ArrayLike, *, shape: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Returns true, false, 0 and 1 as bool `[n]`, n >= 1.

    Args:
        name: of the values, for a message.
        values: any real dtype.
        shape: that they must have; None: any `[n]`.

    Raises:
        ValueError: for another shape, or other values.
        TypeError: for a dtype that is not real.
    """
    if shape is None:
        flags = nonempty(name, values, ndim=1)
    elif (flags := floats(name, values)).shape != shape:
        raise InputError(f"{name} of shape {flags.shape}: need {shape}")
    require((flags == 0) | (flags == 1), flags, f"{name} must be boolean or 0 and 1")
    return flags.astype(bool)
