"""The page that compares several runs."""

import json

import numpy as np
import pytest
from support import sample_runs
from support.pages import assert_valid, plain_text

from kdjax import selective
from kdjax.errors import InputError
from kdjax.evaluation import certification, predictions
from kdjax.report import page
from kdjax.report.page import comparison, seeds


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns runs a, b, a on the same test images; b has another seed and is much better."""
    root = tmp_path_factory.mktemp("compared")
    first = sample_runs.write(root / "one & <b>")

    def better(n, seed, **options):
        predicted = sample_runs.split(n, seed - 1, **options)
        logits = predicted.logits.copy()
        logits[range(n), predicted.labels] += 2
        return predicted._replace(logits=logits)

    second = sample_runs.write(root / "two", draw=better, seed=1)
    third = sample_runs.write(root / "again" / "one & <b>")
    return [page.read(folder) for folder in (first, second, third)]


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "comparison.html"
    assert page.write_comparison(runs, out) == out
    return out.read_text()


def test_page_is_valid_html(text):
    assert len(assert_valid(text).all("svg")) == 1


def test_page_names_the_runs_and_the_differences_of_their_configs(text):
    content = plain_text(text)
    parts = ("1: one & <b>", "2: two", "3: one & <b>", "config.seed: 0 -> 1", "No differences.")
    for part in parts:
        assert part in content


def test_differences_are_from_the_paired_bootstrap(runs):
    first, second, same = runs
    table = comparison.difference_table(
        ["1", "2", "3"], [comparison.compare_with(first, run) for run in (second, same)]
    )
    samples = [(run.response_ranking, run.correct) for run in (second, first)]
    expected = selective.compare(*samples[0], *samples[1])
    cells = {row[0]: row[1:] for row in table.rows}
    for label, key, factor in (
        ("accuracy, points", "accuracy", 100),
        ("AURC, times 1,000", "aurc", 1000),
        ("risk at 80\N{NO-BREAK SPACE}%, points", "error_at_0.8", 100),
    ):
        estimate, low, high = (f"{factor * value:+.2f}" for value in expected[key])
        assert cells[label][0].replace("\N{NO-BREAK SPACE}", " ") == f"{estimate}\n{low} to {high}"
        assert cells[label][1].startswith("+0.00")
    assert len(cells) == len(expected)


def test_summary_states_only_significant_differences(text):
    content = plain_text(text)
    assert "2: two has a higher accuracy than 1: one & <b>, by" in content
    assert "2: two has a lower AURC times 1,000 than 1: one & <b>, by" in content
    assert (
        "3: one & <b> and 1: one & <b> differ in accuracy by 0.00 points, without an interval: too "
        "few differing examples"
    ) in content


def test_all_runs_are_judged_by_the_same_score_and_ranked_on_dev(runs):
    table = comparison.results_table(["1: one", "2: two", "3: one"], runs)
    assert "softmax response" in table.caption
    assert [row[0] for row in table.rows] == ["2: two", "1: one", "3: one"]
    for row, run in zip(table.rows, (runs[1], runs[0]), strict=False):
        values = run.results["scores"]["softmax_response_log_odds"]
        area = selective.aurc(run.response, run.correct)  # no probability here is 1
        assert row[1:4] == [
            f"{1000 * values['dev_aurc']:.2f}",
            f"{100 * run.correct.mean():.2f}",
            f"{1000 * area:.2f}",
        ]


def test_certificates_for_all_runs_are_at_delta_over_their_number(runs, text):
    table = comparison.certificate_table(["1: one", "2: two", "3: one"], runs)
    rows = {row[0]: row[1:] for row in table.rows}
    score = certification.scores_of(runs[1].results)[runs[1].best_score]
    calibration = predictions.load(runs[1].folder / "predictions" / "calibration.npz")
    sample = score(calibration.logits), calibration.correct
    for delta, first in ((0.05, 4), (0.05 / 3, 7)):
        expected = selective.learn_then_test(*sample, risk=0.1, delta=delta)
        test = selective.accept_at(
            runs[1].confidence[runs[1].best_score], runs[1].correct, expected.threshold
        )
        values = (expected.coverage, *test)
        assert rows["2: two"][first : first + 3] == [f"{100 * value:.2f}" for value in values]
    content = plain_text(text)
    assert "if one of S certified runs or risks is chosen" in content
    assert "certified at delta / 3: they hold for whichever run is chosen" in content
    assert "By AURC on the development split, 2: two is the best of the 3 runs." in content


def test_runs_that_differ_in_their_seed_only_are_one_group(runs):
    first, second, _ = runs
    other = json.loads(json.dumps(first.metadata))
    other["config"]["objective"]["payoff"] = 1.5
    other = first._replace(metadata=other)
    assert seeds.group([first, other, second, other]) == [0, 1, 0, 1]
    assert seeds.table(["1: a", "2: b"], [first, other]) is None
    table = seeds.table(["1: a", "2: b", "3: c"], [first, other, second])
    (_, *cells), (_, *single) = table.rows
    assert [row[0] for row in table.rows] == ["1: a and 1 more", "2: b"]
    accuracies = [100 * run.correct.mean() for run in (first, second)]
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert cells[0] == "2" and single[0] == "1"
    assert cells[2].replace("\N{NO-BREAK SPACE}", " ") == f"{mean:.2f}\n± {deviation:.2f}"
    assert single[2] == f"{accuracies[0]:.2f}"


def test_a_run_without_a_guarantee_has_dashes_in_the_table(runs):
    run = sample_runs.without_guarantee(runs[0])
    (cells,) = comparison.certificate_table(["1: one"], [run]).rows
    assert cells[-7:] == ["\N{EN DASH}"] * 7


@pytest.mark.slow
def test_runs_tested_on_other_images_are_rejected(runs, tmp_path):
    other = sample_runs.write(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"other.*one & <b>.*not tested on the same images"):
        page.write_comparison([runs[0], page.read(other)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"name": "mnist"}, {"classes": ("a", "b", "c", "d")}])
def test_runs_on_other_data_sets_are_rejected(runs, tmp_path, fields):
    other = page.read(sample_runs.write(tmp_path / "other", **fields))
    with pytest.raises(InputError, match="only runs on the same data set can be compared"):
        page.write_comparison([runs[0], other], tmp_path / "page.html")


@pytest.mark.slow
def test_runs_with_a_single_test_image_are_compared(tmp_path):
    sizes = dict.fromkeys(sample_runs.SPLITS, 1)
    pair = [page.read(sample_runs.write(tmp_path / name, sizes=sizes)) for name in "ab"]
    text = page.write_comparison(pair, tmp_path / "page.html").read_text()
    assert_valid(text)
    assert predictions.load(tmp_path / "a" / "predictions" / "test.npz").labels.shape == (1,)
