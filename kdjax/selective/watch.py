"""One test of a stream: its wealth, its estimate, and when it raised an alarm."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdjax.selective import betting

Array = NDArray[np.float64]


class Alarm(NamedTuple):
    """The first time that the wealth of a test reached its limit.

    Attributes:
        example: number of the example, from 1.
        log_wealth: logarithm of the wealth after it.
        since: number of the example from which the bet with the largest wealth would have gained
            most if it had started there, an estimate of the beginning of the change.
        size: number of values of the test from then until the alarm.
        mean: their mean. It is biased upwards, because the start was chosen to maximize the gain,
            and has no interval.
    """

    example: int
    log_wealth: float
    since: int
    size: int
    mean: float


class Run(NamedTuple):
    """For each of K bets, the values since the time from which on it would have gained most.

    Attributes:
        gain: logarithm of what it would have gained, `[K]`, >= 0.
        since: number of the example of the first of these values, `[K]`.
        size: number of these values, `[K]`.
        total: their sum, `[K]`.
    """

    gain: Array
    since: NDArray[np.int64]
    size: NDArray[np.int64]
    total: Array


class Watch(NamedTuple):
    """The state of a test.

    Attributes:
        size: number of values so far.
        total: their sum.
        log_capital: of each bet, `[K]`, see `betting.advance`.
        log_wealth: logarithm of the wealth now.
        max_log_wealth: its largest value so far.
        run: since when each bet would have gained most.
        alarm: the first alarm; None: there was none.
    """

    size: int
    total: float
    log_capital: Array
    log_wealth: float
    max_log_wealth: float
    run: Run
    alarm: Alarm | None


def start(bets: int) -> Watch:
    """Returns the state before the first value, of a test with K bets."""
    zeros = np.zeros(bets)
    ones = np.ones(bets, np.int64)
    run = Run(zeros, ones, np.zeros(bets, np.int64), zeros)
    return Watch(0, 0.0, np.full(bets, -np.inf), 0.0, 0.0, run, None)


def feed(
    watch: Watch,
    values: Array,
    log_factors: Array,
    examples: NDArray[np.int64],
    *,
    log_limit: float,
) -> tuple[Watch, Array]:
    """Returns the state after more values, and the logarithm of the wealth after each, `[n]`.

    Args:
        watch: the state before.
        values: `[n]`, n >= 0, of which the mean is estimated.
        log_factors: of the bets, `[n, K]`.
        examples: numbers of the examples that have these values, `[n]`, ascending.
        log_limit: of the wealth, from which on there is an alarm.
    """
    if not len(values):
        return watch, np.zeros(0)
    log_wealth, log_capital = betting.advance(watch.log_capital, watch.size, log_factors)
    alarm = watch.alarm
    if alarm is None and np.any(log_wealth >= log_limit):
        end = int(np.argmax(log_wealth >= log_limit)) + 1
        prefix = values[:end], log_factors[:end], examples[:end]
        alarm = _alarm(watch, *prefix, float(log_wealth[end - 1]))
    after = Watch(
        watch.size + len(values),
        watch.total + float(values.sum()),
        log_capital,
        float(log_wealth[-1]),
        max(watch.max_log_wealth, float(log_wealth.max())),
        _extend(watch.run, values, log_factors, examples),
        alarm,
    )
    return after, log_wealth


def _alarm(
    watch: Watch,
    values: Array,
    log_factors: Array,
    examples: NDArray[np.int64],
    log_wealth: float,
) -> Alarm:
    """Returns the alarm that the last of the values raises."""
    _, capital = betting.advance(watch.log_capital, watch.size, log_factors)
    run, best = _extend(watch.run, values, log_factors, examples), int(np.argmax(capital))
    size = int(run.size[best])
    mean = float(run.total[best]) / size
    return Alarm(int(examples[-1]), log_wealth, int(run.since[best]), size, mean)


def _extend(run: Run, values: Array, log_factors: Array, examples: NDArray[np.int64]) -> Run:
    """Returns the runs after more values; a run begins anew where its gain is lowest."""
    zero = np.zeros((1, len(run.gain)))
    gain = run.gain + np.concatenate([zero, np.cumsum(log_factors, axis=0)])  # [n + 1, K]
    number = len(values)
    first = number - np.argmin(gain[::-1], axis=0)  # the last one of equal values
    lowest = gain[first, np.arange(len(first))]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    anew = lowest <= 0
    following = np.append(examples, examples[-1] + 1)
    return Run(
        gain[-1] - np.minimum(lowest, 0),
        np.where(anew, following[first], run.since),
        np.where(anew, number - first, run.size + number),
        np.where(anew, sums[-1] - sums[first], run.total + sums[-1]),
    )


def to_json(watch: Watch) -> dict[str, Any]:
    """Returns a state as a value for JSON."""
    return {
        "size": watch.size,
        "total": watch.total,
        "log_capital": watch.log_capital.tolist() if watch.size else None,
        "log_wealth": watch.log_wealth,
        "max_log_wealth": watch.max_log_wealth,
        "run": {name: values.tolist() for name, values in watch.run._asdict().items()},
        "alarm": watch.alarm._asdict() if watch.alarm else None,
    }


def from_json(stored: Mapping[str, Any], bets: int) -> Watch:
    """Returns the state of `to_json`.

    Args:
        stored: the value.
        bets: K.

    Raises:
        ValueError, TypeError, KeyError: for another value.
    """
    if not 0 <= stored["total"] <= stored["size"]:
        raise ValueError(f"total {stored['total']} of size {stored['size']}")
    if not 0 <= stored["max_log_wealth"] >= stored["log_wealth"]:
        raise ValueError(f"log_wealth {stored['log_wealth']}, at most {stored['max_log_wealth']}")
    capital = stored["log_capital"]
    run = Run(
        _numbers(stored["run"]["gain"], bets),
        _numbers(stored["run"]["since"], bets).astype(np.int64),
        _numbers(stored["run"]["size"], bets).astype(np.int64),
        _numbers(stored["run"]["total"], bets),
    )
    return Watch(
        int(stored["size"]),
        float(stored["total"]),
        np.full(bets, -np.inf) if capital is None else _numbers(capital, bets),
        float(stored["log_wealth"]),
        float(stored["max_log_wealth"]),
        run,
        Alarm(**stored["alarm"]) if stored["alarm"] else None,
    )


def _numbers(stored: Any, size: int) -> Array:
    array = np.array(stored, np.float64)
    if array.shape != (size,):
        raise ValueError(f"array of shape {array.shape}, need {(size,)}")
    if np.isnan(array).any():
        raise ValueError("NaN")
    return array
