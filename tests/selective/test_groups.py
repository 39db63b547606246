"""Coverage and selective risk of groups against their definition, and the flags by simulation."""

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from support.blaker import blaker_interval

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective import GroupRates


def random_sample(seed, n=400, groups=7):
    """Returns acceptance, correctness and groups; group 5 has no example, 6 no accepted one."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, 1, 2, 3, 4, 6], size=n)
    accepted = (rng.uniform(size=n) < 0.7) & (codes != 6)
    return accepted, rng.uniform(size=n) < 0.8, codes


def reference(accepted, correct, codes, group, level):
    """Returns the rates of a group in Python's float64, with intervals by their definition."""
    members = [i for i in range(len(codes)) if codes[i] == group]
    kept = [i for i in members if accepted[i]]
    errors = [i for i in kept if not correct[i]]
    values = [len(members), len(kept), len(errors)]
    for count, total in ((len(kept), len(members)), (len(errors), len(kept))):
        if not total:
            values += [np.nan, 0.0, 1.0]
            continue
        values += [count / total, *blaker_interval(count, total, level)]
    return values


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_rates_are_those_of_the_definition(level):
    sample = random_sample(0)
    rates = selective.group_rates(*sample, num_groups=7, level=level)
    for group in range(7):
        expected = reference(*sample, group, level)
        assert_allclose([values[group] for values in rates], expected, rtol=0, atol=1e-6)
    assert rates.examples.sum() == 400 and rates.accepted.sum() == sample[0].sum()
    assert rates.total_coverage == sample[0].mean()


def test_groups_without_examples_are_not_flagged():
    rates = selective.group_rates([1, 1], [1, 0], [2, 2], num_groups=3)
    none = GroupRates(*(values[:2] for values in rates))
    assert none.total_coverage == 0
    flags = selective.flag_groups(none, risk=0.05)
    assert not flags.rare.any() and not flags.risky.any()


def test_groups_may_be_any_codes_and_zeros_and_ones_are_booleans():
    accepted, correct, codes = random_sample(1)
    rates = selective.group_rates(accepted, correct, codes.astype(np.uint8), num_groups=7)
    again = selective.group_rates(accepted * 1.0, list(correct * 1), codes.tolist(), num_groups=7)
    for left, right in zip(rates, again, strict=True):
        assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"accepted": []}, InputError, r"accepted of shape \(0,\)"),
        ({"accepted": [0, 2]}, InputError, "accepted must be boolean or 0 and 1: got 2"),
        ({"correct": [1]}, InputError, r"correct of shape \(1,\): need \(2,\)"),
        ({"correct": [1, 0.5]}, InputError, "correct must be boolean or 0 and 1: got 0.5"),
        ({"groups": [0, 3]}, InputError, r"groups must lie in 0..2: got 3"),
        ({"groups": [-1, 0]}, InputError, r"groups must lie in 0..2: got -1"),
        ({"groups": [0, 1, 2]}, InputError, r"groups of shape \(3,\)"),
        ({"groups": [0.0, 1.0]}, TypeError, "groups of dtype float64: need integers"),
        ({"num_groups": 0}, InputError, "num_groups: need an integer >= 1: got 0"),
        ({"level": 1.0}, InputError, r"level must lie in \(0, 1\): got 1"),
    ],
)
def test_bad_input_raises(changes, error, message):
    values = {"accepted": [1, 1], "correct": [1, 0], "groups": [0, 2], "num_groups": 3}
    with pytest.raises(error, match=message):
        selective.group_rates(**values | changes)


def rates_of(*groups):
    """Returns the rates of groups given as (examples, accepted, errors)."""
    accepted, correct, codes = [], [], []
    for code, (examples, kept, errors) in enumerate(groups):
        accepted += [True] * kept + [False] * (examples - kept)
        correct += [False] * errors + [True] * (examples - errors)
        codes += [code] * examples
    return selective.group_rates(accepted, correct, codes, num_groups=len(groups))


def test_a_class_that_is_nearly_never_accepted_or_wrong_is_flagged():
    """The numbers of a run on Fashion-MNIST that promised a selective risk of 2 %."""
    rates = rates_of((1000, 837, 3), (1000, 14, 14), (1000, 600, 12))
    flags = selective.flag_groups(rates, risk=0.02)
    assert_array_equal(flags.rare, [False, True, False])
    assert_array_equal(flags.risky, [False, True, False])
    assert not selective.flag_groups(rates).risky.any()


def test_few_examples_are_not_flagged():
    # 0 of 2 accepted, and 1 error of 4, can be chance.
    flags = selective.flag_groups(rates_of((2, 0, 0), (4, 4, 1), (100, 70, 0)), risk=0.02)
    assert not flags.rare.any() and not flags.risky.any()


def test_nothing_is_flagged_if_everything_or_nothing_is_accepted():
    for kept in (0, 50):
        flags = selective.flag_groups(rates_of((50, kept, 0), (50, kept, 0)), risk=0.1)
        assert not flags.rare.any() and not flags.risky.any()


def test_an_empty_group_is_not_flagged():
    flags = selective.flag_groups(rates_of((0, 0, 0), (50, 40, 1)), risk=0.1)
    assert isinstance(rates_of((0, 0, 0), (1, 1, 0)), GroupRates)
    assert not flags.rare[0] and not flags.risky[0]


def test_groups_at_the_promised_risk_are_rarely_flagged():
    """Any of ten groups is flagged in at most a share delta of samples, by the union bound."""
    rng, delta, samples = np.random.default_rng(0), 0.2, 400
    codes = np.repeat(np.arange(10), 40)
    everything = np.ones(400, bool)
    false_alarms = 0
    for _ in range(samples):
        rates = selective.group_rates(
            everything, rng.uniform(size=400) >= 0.1, codes, num_groups=10
        )
        false_alarms += selective.flag_groups(rates, risk=0.1, delta=delta).risky.any()
    tail = scipy.stats.binom.sf(false_alarms - 1, samples, delta)
    assert tail > 1e-3 and false_alarms > 0
