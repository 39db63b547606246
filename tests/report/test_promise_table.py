"""The table by class and the lines of `kdjax check`, from a report."""

import pytest

from kdjax.report import classes, promise_table, terminal


@pytest.fixture
def report():
    """Two classes; of the second nothing is predicted and accepted."""
    return {
        "classes": ["cat", "dog"],
        "level": 0.95,
        "examples": 1200,
        "accepted": 1000,
        "errors": 12,
        "coverage": 1000 / 1200,
        "coverage_interval": (0.81, 0.855),
        "risk": 0.012,
        "risk_interval": (0.006, 0.021),
        "true": {"examples": [1100, 100], "accepted": [1000, 0], "coverage": [0.90909, 0.0]},
        "predicted": {
            "accepted": [1000, 0],
            "errors": [12, 0],
            "risk": [0.012, None],
            "risk_low": [0.006, None],
            "risk_high": [0.021, None],
        },
        "unknown": {"bird": 1200},
        "warnings": [],
        "verdict": "kept",
    }


def test_rows_have_the_coverage_of_a_class_and_the_risk_of_its_predictions(report):
    cat, dog = promise_table.class_rows(report)
    assert cat == ("cat", "1,100", "1,000", "90.91", "1,000", "12", "1.20", "0.60 to 2.10")
    assert dog == ("dog", "100", "0", "0.00", "0", "0", "-", "-")
    assert len(cat) == len(promise_table.COLUMNS)


def test_lines_have_both_intervals_and_end_with_the_verdict(report):
    assert list(promise_table.summary(report)) == [
        "coverage: 83.33 % (1,000 of 1,200 images), 95 % interval 81.00 to 85.50 %",
        "selective risk: 1.20 % (12 wrong of 1,000 accepted), 95 % interval 0.60 to 2.10 %",
        "note: the model has no class 'bird': 1,200 images, wrong if accepted",
        "kept",
    ]


def test_without_accepted_images_there_is_no_risk(report):
    lines = list(promise_table.summary({**report, "accepted": 0, "unknown": {}, "level": 0.9}))
    assert [line.partition(":")[0] for line in lines] == ["coverage", "kept"]
    assert "90 % interval" in lines[0]


@pytest.mark.parametrize("count", [1, classes.MAX_WARNINGS, classes.MAX_WARNINGS + 3])
def test_only_the_first_warnings_are_shown(report, count):
    warnings = [f"class {number}" for number in range(count)]
    lines = list(promise_table.summary({**report, "unknown": {}, "warnings": warnings}))[2:-1]
    shown = min(count, classes.MAX_WARNINGS)
    assert lines[:shown] == [f"warning: class {number}" for number in range(shown)]
    more = f"and {count - shown:,} more warnings: --json prints all of them"
    assert lines[shown:] == ([more] if count > shown else [])


def test_printed_table_has_a_row_for_each_class_and_no_markup(report, capsys):
    promise_table.show({**report, "classes": ["[red]cat[/red]", "dog"]})
    text = capsys.readouterr().out
    assert "[red]cat[/red]" in text and "90.91" in text
    assert text.endswith("kept\n") and promise_table.TITLE.split(",")[0] in text
    width = max(map(len, text.splitlines()[: text.splitlines().index("kept") - 3]))
    assert width <= terminal.MIN_WIDTH + 1
