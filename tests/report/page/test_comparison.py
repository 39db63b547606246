"""Several runs on one page."""

import pytest
import sample_runs
from test_single import assert_sound, plain

from kdjax import selective
from kdjax.errors import InputError
from kdjax.report import page, predictions
from kdjax.report.page import comparison


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs tested on the same images, the second of another seed and much better."""
    root = tmp_path_factory.mktemp("compared")
    one = sample_runs.write(root / "one & <b>")

    def better(n, seed, **options):
        found = sample_runs.split(n, seed - 1, **options)
        logits = found.logits.copy()
        logits[range(n), found.labels] += 2
        return found._replace(logits=logits)

    two = sample_runs.write(root / "two", draw=better, seed=1)
    return [page.read(folder) for folder in (one, two, one)]


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "comparison.html"
    assert page.write_comparison(runs, out) == out
    return out.read_text()


def test_the_page_is_sound(text):
    found = assert_sound(text)
    assert len(found.all("svg")) == 1


def test_runs_are_named_and_their_configs_told_apart(text):
    shown = plain(text)
    for part in ("1: one & <b>", "2: two", "3: one & <b>", "config.seed: 0 -> 1", "Nowhere."):
        assert part in shown


def test_differences_are_the_paired_ones(runs):
    first, other, same = runs
    table = comparison._difference_table(
        ["1", "2", "3"], [comparison._differences(first, one) for one in (other, same)]
    )
    sample = [(run.confidence[run.best], run.right) for run in (other, first)]
    expected = selective.compare(*sample[0], *sample[1])
    cells = {row[0]: row[1:] for row in table.rows}
    for label, key, factor in (
        ("accuracy, points", "accuracy", 100),
        ("AURC, times 1,000", "aurc", 1000),
        ("wrong at 80\N{NO-BREAK SPACE}%, points", "error_at_0.8", 100),
    ):
        estimate, low, high = (f"{factor * value:+.2f}" for value in expected[key])
        assert cells[label][0].replace("\N{NO-BREAK SPACE}", " ") == f"{estimate}\n{low} to {high}"
        assert cells[label][1].startswith("+0.00")
    assert len(cells) == len(expected)


def test_only_what_the_interval_allows_is_said(text):
    shown = plain(text)
    assert "2: two has the higher accuracy, by" in shown
    assert "2: two has the lower AURC (lower is better), by" in shown
    assert "3: one & <b> and 1: one & <b> cannot be told apart by accuracy" in shown


def test_a_run_without_a_certificate_has_dashes_in_its_place(runs):
    cells = comparison._cells(runs[0]._replace(guarantee=None))
    assert cells[-3:] == ["\N{EN DASH}"] * 3
    assert cells[1] == f"{100 * runs[0].right.mean():.2f}"


def test_runs_tested_on_other_images_are_refused(runs, tmp_path):
    other = sample_runs.write(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"other.*one & <b>.*not tested on the same images"):
        page.write_comparison([runs[0], page.read(other)], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("named", [{"name": "mnist"}, {"classes": ("a", "b", "c", "d")}])
def test_runs_on_other_data_are_refused(runs, tmp_path, named):
    other = page.read(sample_runs.write(tmp_path / "other", **named))
    with pytest.raises(InputError, match="only runs on the same data set can be compared"):
        page.write_comparison([runs[0], other], tmp_path / "page.html")


def test_one_image_is_enough_to_compare(tmp_path):
    sizes = dict.fromkeys(sample_runs.SPLITS, 1)
    found = [page.read(sample_runs.write(tmp_path / name, sizes=sizes)) for name in "ab"]
    text = page.write_comparison(found, tmp_path / "page.html").read_text()
    assert_sound(text)
    assert predictions.load(tmp_path / "a" / "predictions" / "test.npz").labels.shape == (1,)
