"""Monitoring of a deployed model: three anytime-valid tests, of risk, coverage and drift."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import InputError, unknown_name_error
from kdjax.selective import betting, binomial, drift, validation, watch
from kdjax.selective.drift import DriftReference
from kdjax.selective.watch import Alarm

Array = NDArray[np.float64]

RISK, COVERAGE, DRIFT = "risk", "coverage", "drift"
TESTS = (RISK, COVERAGE, DRIFT)
FORMAT = 1  # of `Monitor.state`
LEVEL = 0.95  # of the intervals


class MonitorStatus(NamedTuple):
    """What a test of a `Monitor` has seen.

    Attributes:
        bound: the hypothesis: the largest selective risk, the least share of accepted examples, or
            the mean rank 0.5 of confidences without drift.
        size: number of values: of accepted and labelled examples, of examples, or of confidences.
        mean: the selective risk, the share of accepted examples, or the mean rank of the
            confidences among all before, so far; nan without a value.
        interval: of the mean, see `betting.anytime_interval`; None for ranks.
        log_wealth: logarithm of the wealth now.
        max_log_wealth: its largest value so far.
        log_limit: logarithm of the wealth from which on there is an alarm.
        alarm: the first alarm; None: there was none.
    """

    bound: float
    size: int
    mean: float
    interval: tuple[float, float] | None
    log_wealth: float
    max_log_wealth: float
    log_limit: float
    alarm: Alarm | None


class Monitor:
    """Watches a stream of examples, and raises an alarm if it contradicts what was promised.

    Each test has a wealth E_t that starts at 1 and is a product of bets against its hypothesis:

    - `risk`: an accepted example is wrong with probability at most r, whatever came before.
      E_t = prod(1 + b_i (e_i - r)) over the accepted labelled examples, e_i = 1 for a wrong one,
      with b_i in [0, 1 / r] found from the earlier ones, see `betting.mixture_bets`.
    - `coverage`: an example is accepted with probability at least c. The same product, with
      e_i = 1 for an abstention and r = 1 - c.
    - `drift`: the confidences and those of the reference sample are exchangeable, as independent
      examples of one distribution are. E_t = prod(f_i(p_i)), where p_i is the rank of a confidence
      among all before it, see `drift.online_ranks`, and f_i a density found from earlier ranks.

    If its hypothesis holds, P(E_t >= 1 / d for any t) <= d. With the k tests that are watched,
    d = delta / k: the probability that any of them ever raises a false alarm is at most delta, also
    if they are looked at after every example and watched for ever.

    Args:
        risk: r in (0, 1), the promised selective risk; None: not watched.
        coverage: c in (0, 1), the promised share of accepted examples; None: not watched.
        reference: of `drift_reference`; None: drift is not watched.
        delta: in (0, 1), the probability of a false alarm.
        seed: of the order of equal confidences, >= 0; fix it before the stream is seen.

    Raises:
        ValueError: for a value out of range, or if nothing is to be watched.
        TypeError: for a dtype that is not real.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> monitor = Monitor(risk=0.05, coverage=0.7)
        >>> wealth = monitor.update(rng.random(900) < 0.8, rng.random(900) > 0.1)
        >>> monitor.alarms()["risk"].example < 900, monitor.alarms()["coverage"]
        (True, None)

    Sources: Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS B
    2024; Vovk, Nouretdinov, Gammerman, "Testing exchangeability on-line", ICML 2003.
    """

    def __init__(
        self,
        *,
        risk: float | None = None,
        coverage: float | None = None,
        reference: DriftReference | None = None,
        delta: float = 0.05,
        seed: int = 0,
    ) -> None:
        bounds = {RISK: risk, COVERAGE: coverage}
        self.bounds = {
            name: validation.probability(name, value)
            for name, value in bounds.items()
            if value is not None
        }
        if reference is not None:
            self.bounds[DRIFT] = 0.5
        if not self.bounds:
            raise InputError("nothing to watch: give a risk, a coverage or a reference")
        self.delta = validation.probability("delta", delta)
        self.seed = validation.integer("seed", seed, least=0)
        self.examples = 0
        self._reference = reference
        self._counts = np.array(reference.counts if reference else [0], np.int64)
        self._watches = {name: watch.start(_number_of_bets(name)) for name in self.bounds}

    @property
    def log_limit(self) -> float:
        """Logarithm of the wealth from which on a test raises an alarm: log(k / delta)."""
        return math.log(len(self.bounds) / self.delta)

    def update(
        self,
        accepted: ArrayLike,
        correct: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
    ) -> dict[str, Array]:
        """Adds examples in their order; nothing changes if an argument is invalid.

        Args:
            accepted: `[n]`, boolean or 0 and 1.
            correct: `[n]`, boolean, 0 and 1, or nan for an example without a label; None: none has
                one. Only labels of accepted examples matter. Which examples get a label must not
                depend on what they are, neither on correctness nor on confidence: label all, or
                choose at random.
            confidence: `[n]`, on the scale of the reference; needed if drift is watched, and
                otherwise ignored.

        Returns:
            For each test the logarithm of its wealth after each example, `[n]`.

        Raises:
            ValueError: for unequal lengths, n = 0, other values, or a missing confidence.
            TypeError: for a dtype that is not real.
        """
        is_accepted = validation.booleans("accepted", accepted)
        wrong = _errors(correct, is_accepted)
        groups = self._groups(confidence, is_accepted.shape)
        traces = {}
        if RISK in self.bounds:
            traces[RISK] = self._feed_binary(RISK, wrong, ~np.isnan(wrong))
        if COVERAGE in self.bounds:
            everything = np.ones(is_accepted.shape, bool)
            traces[COVERAGE] = self._feed_binary(COVERAGE, 1.0 - is_accepted, everything)
        if groups is not None:
            traces[DRIFT] = self._feed_ranks(groups)
        self.examples += len(is_accepted)
        return traces

    def status(self, name: str) -> MonitorStatus:
        """Returns what a test has seen.

        Args:
            name: `risk`, `coverage` or `drift`.

        Raises:
            ValueError: for another name, or a test that is not watched.
        """
        if name not in self._watches:
            raise unknown_name_error("watched test", name, self._watches)
        state, size = self._watches[name], self._watches[name].size
        mean = state.total / size if size else math.nan
        interval = None
        if name != DRIFT:
            interval = betting.anytime_interval(state.total, size, LEVEL)
        if name == COVERAGE:  # the values are abstentions
            mean, interval = 1 - mean, (1 - interval[1], 1 - interval[0]) if interval else None
        wealth = state.log_wealth, state.max_log_wealth, self.log_limit
        alarm = self.alarms()[name]
        return MonitorStatus(self.bounds[name], size, mean, interval, *wealth, alarm)

    def alarms(self) -> dict[str, Alarm | None]:
        """Returns the first alarm of each test; None: there was none."""
        alarms = {name: state.alarm for name, state in self._watches.items()}
        if alarm := alarms.get(COVERAGE):  # the values are abstentions
            alarms[COVERAGE] = alarm._replace(mean=1 - alarm.mean)
        return alarms

    def state(self) -> dict[str, Any]:
        """Returns all that was seen, as a value for JSON, from which `restore` continues."""
        return {
            "format": FORMAT,
            "settings": self._settings(),
            "examples": self.examples,
            "counts": self._counts.tolist(),
            "tests": {name: watch.to_json(state) for name, state in self._watches.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a state, instead of from what this monitor has seen.

        Args:
            state: of `state`, of a monitor with the same settings.

        Raises:
            ValueError: for other settings, which it names, or a damaged state.
        """
        try:
            stored = state["settings"] | {"format": state["format"]}
            for name, value in (self._settings() | {"format": FORMAT}).items():
                if stored[name] != value:
                    raise InputError(
                        f"the state has other settings: {_differing(name, stored, value)}"
                    )
            watches = {
                name: watch.from_json(state["tests"][name], _number_of_bets(name))
                for name in self.bounds
            }
            counts = np.array(state["counts"], np.int64)
            if counts.shape != self._counts.shape or np.any(counts < 0):
                raise ValueError(f"counts {counts.tolist()}")
            examples = int(state["examples"])
            if examples < max((each.size for each in watches.values()), default=0):
                raise ValueError(f"examples {examples}")
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the state is damaged: {error!r}") from error
        self.examples, self._counts, self._watches = examples, counts, watches

    def _settings(self) -> dict[str, Any]:
        reference = self._reference
        return {
            RISK: self.bounds.get(RISK),
            COVERAGE: self.bounds.get(COVERAGE),
            "delta": self.delta,
            "seed": self.seed,
            "reference": {name: list(values) for name, values in reference._asdict().items()}
            if reference
            else None,
        }

    def _groups(
        self, confidence: ArrayLike | None, shape: tuple[int, ...]
    ) -> NDArray[np.int64] | None:
        if self._reference is None:
            return None
        if confidence is None:
            raise InputError("confidence: missing, but drift is watched")
        groups = drift.groups_of(self._reference, confidence)
        if groups.shape != shape:
            raise InputError(f"confidence of shape {groups.shape}: need {shape}")
        return groups

    def _feed_binary(self, name: str, values: NDArray[Any], known: NDArray[np.bool_]) -> Array:
        """Adds values 0 and 1 where they are known; returns the wealth after each example."""
        bound = self.bounds[name]
        factors = betting.odds_factors(1 - bound if name == COVERAGE else bound)
        x = values[known]
        return self._feed(
            name, x, np.where(x[:, None] == 1, factors.of_one, factors.of_zero), known
        )

    def _feed_ranks(self, groups: NDArray[np.int64]) -> Array:
        uniforms = drift.ranks_uniforms(self.seed, self._watches[DRIFT].size, len(groups))
        ranks, self._counts = drift.online_ranks(self._counts, groups, uniforms)
        return self._feed(DRIFT, ranks, drift.rank_factors(ranks), np.ones(len(ranks), bool))

    def _feed(
        self, name: str, values: Array, log_factors: Array, known: NDArray[np.bool_]
    ) -> Array:
        before = self._watches[name]
        examples = self.examples + 1 + np.flatnonzero(known)
        limit = self.log_limit
        self._watches[name], trace = watch.feed(
            before, values, log_factors, examples, log_limit=limit
        )
        return np.concatenate([[before.log_wealth], trace])[np.cumsum(known)]


def least_coverage(
    accepted: int, total: int, *, delta: float = 0.05, threshold_from_sample: bool = True
) -> float:
    """A lower bound on the probability that an example is accepted, at confidence 1 - delta.

    The bound of Clopper and Pearson for k accepted examples of n. If the threshold was chosen on
    the same examples, as that of a certificate, it is found at delta / n: the probability above the
    k-th highest confidence is at least the bound at delta / n with probability 1 - delta / n for
    each k, and so with probability 1 - delta for all k together.

    Args:
        accepted: k, number of accepted examples.
        total: n >= 1, number of examples.
        delta: in (0, 1).
        threshold_from_sample: whether the threshold was chosen on these examples.

    Raises:
        ValueError: for numbers out of range.
        TypeError: for a dtype that is not real.
    """
    number = validation.integer("total", total, least=1)
    kept = validation.integer("accepted", accepted, least=0)
    if kept > number:
        raise InputError(f"accepted {kept}: more than the {number} examples")
    level = validation.probability("delta", delta)
    return binomial.lower_bound(kept, number, level / number if threshold_from_sample else level)


def _errors(correct: ArrayLike | None, accepted: NDArray[np.bool_]) -> Array:
    """Returns 1 for a wrong prediction, 0 for a correct one, nan if not accepted or unknown."""
    if correct is None:
        return np.full(accepted.shape, np.nan)
    values = validation.floats("correct", correct)
    if values.shape != accepted.shape:
        raise InputError(f"correct of shape {values.shape}: need {accepted.shape}")
    valid = (values == 0) | (values == 1) | np.isnan(values)
    validation.require(valid, values, "correct must be boolean, 0 and 1, or nan")
    return np.asarray(np.where(accepted, 1 - values, np.nan), np.float64)


def _number_of_bets(name: str) -> int:
    if name == DRIFT:
        return drift.rank_factors(np.array(0.5)).shape[-1]
    return len(betting.ODDS_RATIOS)


def _differing(name: str, stored: Mapping[str, Any], value: Any) -> str:
    if name == "reference":
        return "the reference sample of the confidences"
    return f"{name} {stored[name]} there, {value} here"
