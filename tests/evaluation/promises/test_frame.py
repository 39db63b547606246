"""All promises of a run: what is computed and stated, and what the statements have in common."""

import json

import numpy as np
import pytest
from support import evidence as evidences

from kdjax.evaluation import promises
from kdjax.evaluation.promises import gate, terms, words

CALIBRATION, TEST = evidences.draw(800, 0), evidences.draw(500, 1)


@pytest.fixture(scope="module")
def computed():
    evidence = evidences.of(CALIBRATION, TEST, threshold=1.5, source="certificate")
    return promises.compute_all(evidence)


def test_values_are_json_and_state_the_same_after_reading(computed):
    stored = json.loads(json.dumps(computed, allow_nan=False))
    found = promises.statements({"promises": stored})
    assert found == promises.statements({"promises": computed})
    assert {"selective_risk", "joint", "ladder"} <= computed.keys()


def test_statements_are_in_the_order_of_the_registry(computed):
    turned_around = dict(reversed(computed.items()))
    titles = [each.title for each in promises.statements({"promises": turned_around})]
    expected = [
        promises.PROMISES[name].statement(computed[name]).title
        for name in promises.PROMISES
        if name in computed
    ]
    assert titles == expected and len(set(titles)) == len(titles)


def test_every_statement_has_sentences_and_says_what_holds_together(computed):
    for each in promises.statements({"promises": computed}):
        assert each.title and each.sentences and "hold" in each.scope.lower()
        assert all(sentence[0].isupper() and sentence[-1] == "." for sentence in each.sentences)
        for row in each.table.rows if each.table else ():
            assert len(row) == len(each.table.columns)


def test_what_the_run_lacks_is_left_out(computed):
    """Without a teacher, groups or a gate."""
    assert not {"cascade", "by_group", "gate"} & computed.keys()


@pytest.mark.parametrize("stored", [{}, {"promises": None}, {"promises": {"unknown": {"x": 1}}}])
def test_results_of_other_versions_state_nothing_more(stored):
    assert promises.statements(stored) == []


def test_a_new_promise_needs_only_its_two_functions(monkeypatch):
    promise = promises.Promise(
        lambda evidence: {"images": evidence.images("test")},
        lambda values: promises.Statement("Images", (f"{values['images']} images.",), "holds"),
    )
    monkeypatch.setitem(promises.PROMISES, "images", promise)
    evidence = evidences.of(CALIBRATION, TEST)
    results = {"promises": promises.compute_all(evidence)}
    assert results["promises"]["images"] == {"images": 500}
    assert promises.statements(results)[-1].sentences == ("500 images.",)


def test_evidence_counts_the_images_that_a_gate_stops():
    evidence = evidences.of(CALIBRATION, TEST)
    assert evidence.images("calibration") == 800
    gated = evidence._replace(gate={"calibration": {"examples": 900, "passed": 800}})
    assert gated.images("calibration") == 900 and gate.PROMISE in promises.PROMISES.values()


@pytest.mark.parametrize("delta", [0.05, 0.1])
def test_the_chance_of_a_false_promise_is_said_with_its_number(delta):
    lines = terms.how_it_can_fail({"joint": {"delta": delta}, "ladder": {"delta": delta}, "x": {}})
    assert sum(line.startswith("By chance") for line in lines) == 1
    assert (
        f"at least {100 * (1 - delta):g} %" in lines[0]
        and f"at most {100 * delta:g} of 100 choices" in lines[0]
    )
    # A way to fail is a condition, not a statement about this model.
    assert all(line.startswith("If ") for line in lines[1:])


def test_sections_answer_for_which_images_how_it_fails_and_what_is_not_promised():
    before, after = terms.before(), terms.after({"ladder": {"delta": 0.05}})
    assert list(before) == ["For which images", "What is not promised"]
    assert list(after) == ["How a promise can fail"]
    found = {**before, **after}
    text = " ".join(sentence for sentences in found.values() for sentence in sentences)
    for part in ("another camera", "single answer", "one class", "all statements hold at once"):
        assert part in text


@pytest.mark.parametrize(
    ("share", "down", "up"),
    [(0.0, "0.0 %", "0.00 %"), (0.8469, "84.6 %", "84.69 %"), (0.01985, "1.9 %", "1.99 %")],
)
def test_bounds_are_rounded_to_the_safe_side(share, down, up):
    assert (words.percent_down(share), words.percent_up(share)) == (down, up)
    # A bound that is a decimal itself is not moved by its float64 error.
    assert words.percent_down(0.57) == "57.0 %" and words.percent_up(0.57) == "57.00 %"


@pytest.mark.parametrize(
    ("accepted", "errors", "sentence", "rate"),
    [
        (0, 0, "So there is no error among them.", "nothing accepted"),
        (200, 1, "1 of them was wrong (0.50 %).", "0.50 %"),
        (1000, 20, "20 of them were wrong (2.00 %).", "2.00 %"),
    ],
)
def test_errors_among_the_accepted_are_counted_in_words(accepted, errors, sentence, rate):
    split = {"images": 2000, "accepted": accepted, "errors": errors}
    assert words.errors(split) == sentence and words.error_rate(split) == rate


def test_shares_are_given_with_their_counts():
    split = {"images": 2000, "accepted": 1682, "errors": 3}
    assert words.share(split) == "1,682 of 2,000 (84.1 %)"
    assert words.part(split) == "84.1 %"
    assert words.exact_percent(0.005) == "0.5 %" and words.exact_percent(0.1) == "10 %"
    assert words.listed(["a"]) == "a" and words.listed(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("share", "frequency"),
    [(0.05, "5 of 100"), (0.1, "10 of 100"), (0.005, "5 of 1,000"), (1 / 120, "0.833 of 100")],
)
def test_probabilities_are_given_as_frequencies(share, frequency):
    assert words.in_hundred(share) == frequency


def test_two_are_both():
    assert words.all_of(2, "models") == "both models"
    assert words.all_of(3, "models") == "all 3 models"


def test_terms_are_explained_above_the_statements():
    text = " ".join(terms.READING)
    for term in ("threshold", "calibration images", "test images", "'Holds alone'", "long run"):
        assert term in text


def test_evidence_gives_confidences_and_decisions_of_a_split():
    evidence = evidences.of(CALIBRATION, TEST, threshold=1.5)
    confidence, correct = evidence.sample("test")
    np.testing.assert_array_equal(confidence, TEST.logits[:, 0])
    np.testing.assert_array_equal(correct, TEST.labels == 0)
    np.testing.assert_array_equal(evidence.accepted("test"), TEST.logits[:, 0] >= 1.5)
