"""The classes on the page of a model card."""

import pytest
from support import sample_runs

from kdjax.evaluation import per_class
from kdjax.evaluation.certification import OperatingPoint
from kdjax.export import card, card_page


@pytest.fixture(scope="module")
def model_card():
    shares = {"coverage": [0.9, 0.014, None], "risk": [0.0, 1.0, None]}
    rates = {
        "examples": [10, 1000, 0],
        **shares,
        **{f"{name}_{end}": [0.25, 0.5, 0.0] for name in shares for end in ("low", "high")},
    }
    classes = ["bag", "shirt|<b>", "boot"]
    return {
        **dict.fromkeys(card.FIELDS),
        "name": "run",
        "kdjax": "1.0",
        "data": {"name": "fashions", "version": "1.0.0"},
        "classes": classes,
        "input": {"shape": [8, 8, 1]},
        "score": {"name": "margin"},
        "test": {"accuracy": 0.5, "examples": 1010},
        "files": {},
        "notes": [],
        "per_class": {
            "classes": classes,
            "level": 0.95,
            "true": rates,
            "predicted": rates,
            "warnings": ["14 of 1,000 images of class shirt|<b> are accepted"],
        },
    }


def test_page_has_the_warnings_and_the_classes_by_coverage(model_card):
    lines = card_page.render(model_card).splitlines()
    assert "- Warning: 14 of 1,000 images of class shirt\\|\\<b\\> are accepted" in lines
    start = lines.index("| true class | test images | coverage | selective risk |")
    assert lines[start + 2 : start + 5] == [
        "| shirt\\|\\<b\\> | 1,000 | 1.4 % (50.0 to 50.0 %) | 100.0 % (50.0 to 50.0 %) |",
        "| bag | 10 | 90.0 % (25.0 to 25.0 %) | 0.0 % (25.0 to 25.0 %) |",
        "| boot | 0 | - | - |",
    ]
    assert "| predicted class | test images | coverage | selective risk |" in lines


def test_a_card_of_an_earlier_version_has_no_classes(model_card):
    page = card_page.render({**model_card, "per_class": None})
    assert "true class" not in page and "Warning" not in page


def test_the_rates_of_the_exported_operating_point_can_be_on_the_card(model_card):
    point = OperatingPoint("margin", 2.0, 0.5, "given", None)
    rates = per_class.at_operating_point(point, sample_runs.split(200, 0), sample_runs.CLASSES)
    assert "| ankle boot |" in card_page.render({**model_card, "per_class": rates})
