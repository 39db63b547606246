"""experiments/certificates.py: its fast certificates, its distributions, and its table."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom
from support.experiments import load, run_main

from kdjax import selective

RISKS = (0.02, 0.05, 0.2)


@pytest.fixture(scope="module")
def choice():
    return load("certificates")


def sample(rng, *, draws, n, rate):
    """Returns sorted ranks and errors, both [draws, n]."""
    ranks = np.sort(rng.random((draws, n)), axis=1)
    return ranks, rng.random(ranks.shape) < rate.at(ranks)


@pytest.mark.parametrize(("scale", "power"), [(0.47, 5), (0.2, 1), (0.1, 0)])
@pytest.mark.parametrize("coverage", [0.1, 0.5, 1.0])
def test_true_risk_is_the_mean_error_probability_among_the_accepted(
    choice, scale, power, coverage
) -> None:
    rate = choice.ErrorRate(scale, power)
    errors, _ = quad(lambda rank: float(rate.at(np.array(rank))), 0, coverage)
    assert rate.risk(np.array(coverage)) == pytest.approx(errors / coverage, rel=1e-9)


def test_nothing_accepted_has_no_risk(choice) -> None:
    np.testing.assert_array_equal(choice.ErrorRate(0.5, 0).risk(np.array([0.0, 0.5])), [0, 0.5])


def first_certified(errors, n, risk, delta):
    """Returns the smallest count at which so many errors still certify the risk."""
    counts = (count for count in range(30, n + 2) if binom.cdf(errors, count, risk) <= delta)
    return next(counts, n + 1)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("delta", [0.05, 0.005])
def test_certification_starts_where_few_errors_are_tolerated(choice, n, risk, delta) -> None:
    without, tolerated = (
        first_certified(errors, n, risk, delta) for errors in (0, choice.TOLERATED_ERRORS)
    )
    assert choice.first_count(n, risk, delta) == max(without, min(tolerated, n // 4))


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize(("scale", "power"), [(0.47, 5), (0.05, 0), (0.9, 0)])
def test_many_certificates_at_once_are_those_of_the_library(choice, risk, scale, power) -> None:
    rng = np.random.default_rng(7)
    ranks, wrong = sample(rng, draws=40, n=300, rate=choice.ErrorRate(scale, power))
    coverage, observed = choice.certify(ranks, wrong, risk, 0.05)
    for row in range(len(ranks)):
        found = selective.learn_then_test(-ranks[row], ~wrong[row], risk=risk, delta=0.05)
        expected = min(-found.threshold, 1) if np.isfinite(found.threshold) else 0
        assert coverage[row] == pytest.approx(expected, abs=1e-12)
        assert observed[row] == np.mean(-ranks[row] >= found.threshold)


def test_too_few_examples_certify_nothing(choice) -> None:
    ranks, wrong = (
        np.sort(np.random.default_rng(0).random((3, 20)), axis=1),
        np.zeros((3, 20), bool),
    )
    coverage, observed = choice.certify(ranks, wrong, 0.02, 0.05)
    assert not coverage.any() and not observed.any()


def test_check_raises_where_the_fast_certificate_differs(choice, monkeypatch) -> None:
    ranks, wrong = np.linspace(0.01, 0.99, 200)[None], np.zeros((1, 200), bool)
    choice.check(ranks, wrong, 0.05, 0.05)
    monkeypatch.setattr(choice, "certify", lambda *_: (np.zeros(1), np.zeros(1)))
    with pytest.raises(RuntimeError, match=r"certify: 0\.0, learn_then_test: 0\.99"):
        choice.check(ranks, wrong, 0.05, 0.05)


def test_no_choice_violates_a_risk_that_holds_everywhere(choice) -> None:
    rng, rate = np.random.default_rng(0), choice.ErrorRate(0.001, 0)
    fixed, chosen, corrected = choice.choose_risk(rng, draws=50, n=500, rate=rate, risks=RISKS)
    assert fixed == 0 and not chosen.any() and not corrected.any()


def test_a_fixed_risk_is_violated_at_most_as_often_as_promised(choice) -> None:
    """The error rate is just above the fixed risk: every certificate of it is a violation."""
    rng, rate = np.random.default_rng(0), choice.ErrorRate(0.05 * (1 + 1e-6), 0)
    draws, risks = 600, (0.02, 0.05)
    fixed, chosen, corrected = choice.choose_risk(rng, draws=draws, n=500, rate=rate, risks=risks)
    assert 0 < fixed <= draws * choice.DELTA + 3 * np.sqrt(draws * choice.DELTA)
    assert fixed <= chosen.max() and corrected.max() <= chosen.max()


def test_correction_for_many_runs_lowers_the_violations(choice) -> None:
    fixed, chosen, corrected = choice.choose_run(
        np.random.default_rng(0), draws=100, n=1000, runs=5, shared=0.6, risk=0.02
    )
    assert corrected <= chosen and max(fixed, corrected) <= 100 * 0.05 + 3 * np.sqrt(100 * 0.05)


@pytest.mark.parametrize(
    ("draws", "size", "sizes"), [(10, 4, [4, 4, 2]), (3, 5, [3]), (4, 2, [2, 2])]
)
def test_batches_hold_every_draw_once(choice, draws, size, sizes) -> None:
    seen = []

    def count(*, draws):
        seen.append(draws)
        return [draws, np.full(2, draws)]

    total, array = choice.in_batches(count, draws, size)
    assert seen == sizes and total == draws
    np.testing.assert_array_equal(array, [draws, draws])


def test_best_looking_risk_follows_its_rule(choice) -> None:
    """Brute force over the draws and the seven rules."""
    rate, draws, n = choice.ErrorRate(0.05 * (1 + 1e-6), 0), 200, 400
    ranks, wrong = sample(np.random.default_rng(3), draws=draws, n=n, rate=rate)
    certified = [choice.certify(ranks, wrong, risk, choice.DELTA) for risk in RISKS]
    rules = [lambda c, r, least=least: (c > least) / r for least in (0, 0.3, 0.6, 0.9)]
    rules += [lambda c, r, k=k: c * max(0, 1 - k * r) for k in (2, 10, 50)]
    expected = [0] * len(rules)
    for draw, (place, rule) in itertools.product(range(draws), enumerate(rules)):
        values = [rule(seen[draw], r) for (_, seen), r in zip(certified, RISKS, strict=True)]
        best = int(np.argmax(values))
        true_risk = rate.risk(certified[best][0][draw])
        expected[place] += bool(values[best] > 0 and true_risk > RISKS[best])
    rng = np.random.default_rng(3)
    _, chosen, _ = choice.choose_risk(rng, draws=draws, n=n, rate=rate, risks=RISKS)
    np.testing.assert_array_equal(chosen, expected)
    assert chosen.any()


def test_main_writes_the_table_and_fails_if_a_correction_is_violated(
    choice, tmp_path, monkeypatch, capsys
) -> None:
    rows = [choice.Row("five runs", 400, 0.05, 0.15, 0.04)]
    monkeypatch.setattr(choice, "measure", lambda draws: rows)
    run_main(choice, monkeypatch, "--draws=400", f"--out={tmp_path / 'page.md'}")
    text = (tmp_path / "page.md").read_text()
    assert text == capsys.readouterr().out.removesuffix("\n")
    assert "| five runs | 5.00 | 15.00 | 4.00 |" in text
    assert "400 draws a line (two standard errors at 5 %: 2.18)" in text
    rows[0] = rows[0]._replace(corrected=0.08)  # more than two standard errors above delta
    with pytest.raises(SystemExit, match="1"):
        run_main(choice, monkeypatch, "--draws=400")
