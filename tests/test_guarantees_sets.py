"""experiments/guarantees/sets.py: few draws, and what its populations and rows are."""

import numpy as np
import pytest

from experiments.guarantees import __main__ as command
from experiments.guarantees import sets
from kdjax import selective

DRAWS = 150


@pytest.fixture(scope="module")
def rows():
    return sets.simulate(DRAWS, 1)


@pytest.mark.slow
def test_true_class_is_missing_at_most_as_often_as_promised(rows):
    assert len({row.setting for row in rows}) == len(rows)
    assert [row for row in rows if row.exceeds(3)] == []
    assert all(row.delta == sets.ALPHA and row.draws <= DRAWS for row in rows)
    assert sum(row.violations for row in rows) > 0


@pytest.mark.slow
def test_rows_of_rejected_images_count_only_these(rows):
    rejected = [row for row in rows if row.setting.startswith("rejected images")]
    assert len(rejected) == len(sets.SETTINGS)
    assert all(0 < row.draws <= DRAWS and "with all classes" in row.note for row in rejected)
    assert any(row.draws < DRAWS for row in rejected)
    for_information = [row for row in rows if not row.assumed]
    assert len(for_information) == 2 * len(sets.SETTINGS)


def test_outcome_of_a_draw_is_that_of_its_last_image():
    rng = np.random.default_rng(0)
    draw = sets.errors(lambda ranks: 0.9 * ranks**3, high=True)
    seen = set()
    for one in zip(*draw(rng, (40, 201)), strict=True):
        images = sets.Images(*one)
        sample = images.confidence[:-1], images.correct[:-1]
        threshold = selective.learn_then_test(*sample, risk=0.1, delta=sets.DELTA).threshold
        rejected, missed, *_ = sets.outcome(images, 0.1)
        assert rejected == (images.confidence[-1] < threshold)
        assert not (missed and images.correct[-1])
        seen.add(bool(rejected))
    assert seen == {True, False}


@pytest.mark.parametrize("high", [True, False])
def test_scores_of_errors_are_higher_or_lower_than_those_of_correct_predictions(high):
    draw = sets.errors(lambda ranks: np.full_like(ranks, 0.5), high=high)
    scores, confidence, correct = draw(np.random.default_rng(0), (20, 500))
    assert abs(correct.mean() - 0.5) < 0.02
    assert (scores[~correct].mean() > scores[correct].mean()) == high
    errors = np.stack([scores[~correct], confidence[~correct]])
    assert np.corrcoef(errors)[0, 1] < -0.5


def test_levels_limit_the_number_of_confidences():
    draw = sets.errors(lambda ranks: 0 * ranks, high=True, levels=7)
    _, confidence, correct = draw(np.random.default_rng(0), (5, 200))
    assert len(np.unique(confidence)) == 7 and correct.all()


def test_simulation_is_registered():
    assert command.SIMULATIONS["sets"][1] is sets.simulate
