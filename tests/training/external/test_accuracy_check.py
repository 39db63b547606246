"""The check of a given teacher: chance, other settings, class order."""

import shlex

import numpy as np
import pytest

from kdjax.errors import InputError
from kdjax.training.external import accuracy_check, class_order
from kdjax.training.external.accuracy_check import Alternative

CLASSES = tuple("abcde")
LABELS = np.arange(200) % 5


def logits_with(accuracy: float, seed: int = 0) -> np.ndarray:
    """Returns logits of which exactly this share is correct; the others are off by one class."""
    predicted = LABELS.copy()
    wrong = np.random.default_rng(seed).permutation(200)[: round(200 * (1 - accuracy))]
    predicted[wrong] = (predicted[wrong] + 1) % 5
    return np.eye(5)[predicted]


def checked(logits: np.ndarray, *alternatives: Alternative) -> str:
    return accuracy_check.check("teacher x", logits, LABELS, CLASSES, lambda: alternatives)


def test_accurate_teacher_is_not_tried_with_other_settings() -> None:
    def fail() -> list[Alternative]:
        raise AssertionError

    note = accuracy_check.check("teacher x", logits_with(0.95), LABELS, CLASSES, fail)
    assert note == "teacher x classifies 95.0 % of 200 dev images correctly"


def test_clearly_better_setting_is_a_warning_if_the_teacher_is_not_near_chance() -> None:
    better = Alternative({"teacher.input_scale": "1"}, logits_with(0.9))
    with pytest.warns(RuntimeWarning, match=r"70.0 % .* --config.teacher.input_scale=1 90.0 %"):
        checked(logits_with(0.7), better)


def test_slightly_better_setting_is_not_named() -> None:
    checked(logits_with(0.7), Alternative({"teacher.input_scale": "1"}, logits_with(0.73)))


def test_smallest_change_is_named_among_equally_good_ones() -> None:
    good = logits_with(0.9)
    two = Alternative({"teacher.input_scale": "1", "teacher.input_channels": "bgr"}, good)
    one = Alternative({"teacher.input_channels": "bgr"}, good)
    with pytest.raises(InputError, match=r"with --config.teacher.input_channels=bgr 90.0 %"):
        checked(np.eye(5)[(LABELS + 2) % 5 * 0], two, one)


def test_class_order_is_found_only_where_it_is_clear() -> None:
    order = [2, 0, 1, 4, 3]
    found = accuracy_check.class_order(logits_with(0.9)[:, order], LABELS, CLASSES)
    assert found is not None
    assert found.flags == {"teacher.class_names": "c,a,b,e,d"}
    assert accuracy_check.accuracy(found.logits, LABELS) == pytest.approx(0.9)
    noise = np.random.default_rng(0).normal(size=(200, 5))
    assert accuracy_check.class_order(noise, LABELS, CLASSES) is None


@pytest.mark.parametrize("given", [None, (2, 1, 0, 3, 4), (4, 3, 2, 1, 0)])
def test_class_order_that_is_named_gives_the_accuracy_that_is_promised(given) -> None:
    raw = logits_with(0.9)[:, [2, 0, 1, 4, 3]]  # the outputs are those of c, a, b, e, d
    found = accuracy_check.class_order(class_order.select(raw, given), LABELS, CLASSES, given)
    assert found is not None
    names = found.flags["teacher.class_names"]
    columns = class_order.chosen_columns(names, (), 5, CLASSES, "teacher x")
    assert names == "c,a,b,e,d"
    followed = class_order.select(raw, columns)
    assert accuracy_check.accuracy(followed, LABELS) == pytest.approx(0.9)
    np.testing.assert_array_equal(followed, found.logits)


def test_no_class_order_is_named_for_a_teacher_with_other_classes_too() -> None:
    logits = logits_with(0.9)[:, [1, 0, 2, 3, 4]]
    assert accuracy_check.class_order(logits, LABELS, CLASSES, (7, 0, 1, 2, 3)) is None


@pytest.mark.parametrize("count", [6, 20, 200, 2000])
@pytest.mark.parametrize("classes", [2, 10])
def test_chance_is_told_from_a_good_teacher(count: int, classes: int) -> None:
    labels = np.arange(count) % classes
    assert not accuracy_check.is_near_chance(np.eye(classes)[labels], labels)
    assert accuracy_check.is_near_chance(np.eye(classes)[labels * 0], labels)
    false_alarms = [
        accuracy_check.is_near_chance(rng.normal(size=(count, classes)), labels)
        for rng in map(np.random.default_rng, range(50))
    ]
    assert np.mean(false_alarms) > 0.9


@pytest.mark.parametrize(("majority", "correct"), [(0.98, 0.988), (0.9, 0.94)])
def test_good_teacher_of_unequal_classes_is_not_near_chance(majority, correct) -> None:
    labels = (np.arange(2000) >= majority * 2000).astype(int)
    predicted, wrong = labels.copy(), round(2000 * (1 - correct) / 2)
    predicted[:wrong] = 1  # as many errors in one class as in the other
    predicted[-wrong:] = 0
    assert accuracy_check.accuracy(np.eye(2)[predicted], labels) == pytest.approx(correct)
    assert not accuracy_check.is_near_chance(np.eye(2)[predicted], labels)
    shuffled = np.random.default_rng(0).permutation(predicted)
    assert accuracy_check.is_near_chance(np.eye(2)[shuffled], labels)
    assert accuracy_check.is_near_chance(np.eye(2)[labels * 0], labels)


def test_named_classes_can_be_pasted_into_a_shell() -> None:
    names = ("cat, black", "german shepherd", "x", "d", "e")
    found = accuracy_check.class_order(logits_with(0.9)[:, [2, 0, 1, 4, 3]], LABELS, names)
    assert found is not None
    (word,) = shlex.split(accuracy_check.describe(found.flags))
    given = class_order.parse_names(word.removeprefix("--config.teacher.class_names="))
    assert given == ("x", "cat, black", "german shepherd", "e", "d")


def test_sample_is_spread_over_the_split() -> None:
    rows = accuracy_check.sample(5000)
    assert len(rows) == accuracy_check.CHECKED_IMAGES
    assert (rows[0], rows[-1]) == (0, 4999) and (np.diff(rows) > 0).all()
    assert accuracy_check.sample(3).tolist() == [0, 1, 2]
