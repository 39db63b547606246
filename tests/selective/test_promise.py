"""The test of a promised selective risk on new labelled examples."""

import math

import numpy as np
import pytest
import scipy.stats
from support.blaker import blaker_interval

from kdjax.errors import InputError
from kdjax.selective import check_promise


def sample(accepted, errors, rejected=0):
    """Returns which of some examples are accepted, and which predictions are correct."""
    kept = np.arange(accepted + rejected) < accepted
    return kept, ~(np.arange(accepted + rejected) < errors)


@pytest.mark.parametrize("errors", [0, 1, 4, 9, 40])
def test_p_value_and_intervals_are_those_of_their_definitions(errors):
    check = check_promise(*sample(40, errors, rejected=7), risk=0.1, level=0.9)
    test = scipy.stats.binomtest(errors, 40, 0.1, alternative="greater")
    assert check.p_value == pytest.approx(test.pvalue)
    assert check.risk_interval == pytest.approx(blaker_interval(errors, 40, 0.9), abs=1e-6)
    assert (check.examples, check.accepted, check.errors) == (47, 40, errors)
    assert check.coverage == 40 / 47 and check.risk == errors / 40
    assert check.coverage_interval == pytest.approx(blaker_interval(40, 47, 0.9), abs=1e-6)
    assert check.refuted == (test.pvalue <= 0.05)


@pytest.mark.parametrize(("accepted", "risk", "delta"), [(40, 0.1, 0.05), (357, 0.02, 0.01)])
def test_refuting_errors_is_the_least_number_that_refutes(accepted, risk, delta):
    least = check_promise(*sample(accepted, 0), risk=risk, delta=delta).refuting_errors
    for errors in (least - 1, least):
        check = check_promise(*sample(accepted, errors), risk=risk, delta=delta)
        assert check.refuted == (errors >= least)
        assert check.refuting_errors == least


def test_too_few_accepted_examples_refute_nothing():
    check = check_promise(*sample(1, 1), risk=0.1)
    assert check.refuted is False and check.refuting_errors is None
    nothing = check_promise(*sample(0, 0, rejected=5), risk=0.1)
    assert math.isnan(nothing.risk) and nothing.risk_interval == (0, 1)
    assert (nothing.coverage, nothing.p_value, nothing.refuted) == (0, 1, False)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_a_kept_promise_is_refuted_with_probability_at_most_delta(delta):
    rng = np.random.default_rng(0)
    runs, refuted = 2000, {}
    for risk in (0.02, 0.05, 0.08):
        kept = rng.random((runs, 300)) < 0.7  # coverage 70 %, a promise of 5 %
        right = rng.random((runs, 300)) >= risk
        checks = (
            check_promise(*pair, risk=0.05, delta=delta) for pair in zip(kept, right, strict=True)
        )
        refuted[risk] = sum(check.refuted for check in checks)
    # Three standard deviations above delta at the promised risk; far below it and above it.
    assert refuted[0.05] <= runs * delta + 3 * math.sqrt(runs * delta * (1 - delta))
    assert refuted[0.05] > runs * delta / 4
    assert refuted[0.02] < refuted[0.05] / 10 and refuted[0.08] > 3 * refuted[0.05]


@pytest.mark.parametrize(
    ("arguments", "options", "part"),
    [
        (([], []), {"risk": 0.1}, "accepted of shape (0,)"),
        (([1], [1, 0]), {"risk": 0.1}, "correct of shape (2,)"),
        (([2], [1]), {"risk": 0.1}, "accepted must be boolean"),
        (([1], [1]), {"risk": 0.0}, "risk must lie in (0, 1)"),
        (([1], [1]), {"risk": 0.1, "delta": 1}, "delta must lie in (0, 1)"),
        (([1], [1]), {"risk": 0.1, "level": 95}, "level must lie in (0, 1)"),
    ],
)
def test_invalid_arguments_raise(arguments, options, part):
    with pytest.raises(InputError) as raised:
        check_promise(*arguments, **options)
    assert part in str(raised.value)
