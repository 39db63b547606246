"""Counts with and without abstention, and the table of a sweep."""

import pytest

from kdjax import selective
from kdjax.report import outcomes, sweep_table
from kdjax.training.collapse import LIMIT


def results(accuracy=0.9, examples=200, threshold=0.5, coverage=0.8, error=0.05, **fields):
    """The part of `results.json` that is counted."""
    certificate = {"threshold": threshold, "test_coverage": coverage, "test_error": error}
    return {
        "test": {"accuracy": accuracy, "examples": examples},
        "guarantee": {
            "risk": 0.1,
            "certificates": [{"risk": 0.1, "learn_then_test": certificate}],
        },
        **fields,
    }


@pytest.mark.parametrize("examples", [1, 7, 359, 10_000])
@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_counts_are_recovered_from_the_rounded_shares(examples, wrong):
    """A share is a float, such as 1 - 3 / 359; the count must not be off by one."""
    wrong = min(wrong, examples)
    accepted = max(examples - 2, 1)
    errors = min(wrong, accepted)
    found = outcomes.outcome(
        results(1 - wrong / examples, examples, 0.5, accepted / examples, errors / accepted)
    )
    assert found == (examples, wrong, accepted, errors)


def test_without_a_threshold_nothing_is_accepted():
    assert outcomes.outcome(results(threshold=None)) == (200, 20, 0, 0)
    assert outcomes.outcome(results(coverage=0.0, error=None)) == (200, 20, 0, 0)


def test_cells_and_sentence_have_the_same_counts():
    assert outcomes.cells(results()) == ("20 (10.0 %)", "160 (80.0 %)", "8 (5.0 %)")
    assert outcomes.sentence("kd", results()) == (
        "kd: if it must answer on all 200 test images, 20 are wrong; if it may abstain, it "
        "abstains on 40, and of the 160 that it accepts 8 are wrong (certified risk 10 %)."
    )
    one_wrong = outcomes.sentence("kd", results(accuracy=0.995, error=1 / 160))
    assert "200 test images, 1 is wrong" in one_wrong and "accepts 1 is wrong" in one_wrong


def test_run_without_a_certificate_says_so():
    without = results(threshold=None)
    assert outcomes.cells(without) == ("20 (10.0 %)", "none", "-")
    assert outcomes.sentence("ce", without).endswith(
        "20 are wrong; no threshold could be certified for a risk of 10 %."
    )


def test_teacher_comes_first_if_a_student_has_evaluated_it():
    teacher = results(accuracy=0.95)
    students = {"ce": results(), "kd": results(teacher=teacher)}
    assert list(outcomes.networks(students)) == ["teacher", "ce", "kd"]
    assert outcomes.networks(students)["teacher"] is teacher
    # A teacher of an earlier version has no certificate.
    assert list(outcomes.networks({"kd": results(teacher={"test": {}})})) == ["kd"]


def test_best_student_has_the_lowest_aurc_of_its_own_score():
    def student(score, **areas):
        scores = {name: {"dev_aurc": dev, "aurc": test} for name, (dev, test) in areas.items()}
        return {"best_score": score, "scores": scores}

    students = {
        "a": student("margin", margin=(0.03, 0.01), energy=(0.001, 0.001)),
        "b": student("energy", margin=(0.09, 0.09), energy=(0.02, 0.02)),
    }
    assert outcomes.best(students, "dev") == "b"
    assert outcomes.best(students, "test") == "a"


# The table of a sweep


def row(name, aurc=0.0123, abstained=0.25, score="margin_log"):
    metrics = {"aurc": aurc, "accuracy": 0.98765, "error_at_90": 0.005, "error_at_80": None}
    return {
        "name": name,
        "score": score,
        "dev": {**metrics, "abstained": abstained},
        "test": {**metrics, "aurc": 2 * aurc},
    }


def sweep(*rows, **fields):
    return {"metric": "aurc", "chosen": "b", "settings": list(rows), "seeds": [], "mean": None,
            "deviation": None, **fields}  # fmt: skip


def test_settings_are_sorted_by_the_metric_on_dev_and_the_chosen_one_is_marked():
    lines = sweep_table.settings(sweep(row("a", 0.03), row("b", 0.01), row("c", 0.02)))
    assert [line[0] for line in lines] == ["b *", "c", "a"]
    assert lines[0][1:-1] == [
        "10.00", "98.77", "0.50", "-", "25.00", "20.00", "98.77", "0.50", "-"
    ]  # fmt: skip
    assert lines[0][-1] == selective.display_name("margin_log")
    assert len(lines[0]) == 1 + len(sweep_table.COLUMNS)


@pytest.mark.parametrize(
    ("share", "cell"), [(None, "-"), (LIMIT, f"{100 * LIMIT:.2f}"), (0.995, "99.50 !")]
)
def test_collapsed_student_is_marked(share, cell):
    ((_, *cells),) = sweep_table.settings(sweep(row("b", abstained=share)))
    assert cells[4] == cell


def test_seeds_end_with_their_mean_and_deviation():
    statistics = {key: value for key, value in row("").items() if key in ("dev", "test")}
    table = sweep(seeds=[row("seed 1"), row("seed 2")], mean=statistics, deviation=statistics)
    lines = sweep_table.seeds(table)
    assert [line[0] for line in lines] == ["seed 1", "seed 2", "mean", "standard deviation"]
    assert lines[2][-1] == "" and lines[2][1] == "12.30"
    assert len(sweep_table.seeds({**table, "mean": None})) == 2


@pytest.mark.parametrize(
    ("metric", "words"), [("aurc", "lowest AURC"), ("accuracy", "highest accuracy")]
)
def test_choice_is_explained_in_a_sentence(metric, words):
    text = sweep_table.choice(sweep(row("a"), row("b"), metric=metric))
    assert text == f"Chosen (*) by the {words} on dev among 2: b."
