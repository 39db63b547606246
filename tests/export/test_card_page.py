"""`card.md`: the model card as a page."""

import re

import numpy as np
import PIL.Image
import pytest

from kdjax.data.fit import RESIZES, fit
from kdjax.export import card, card_page

FIGURES = {"images": 200, "accepted": 180, "errors": 3, "coverage": 0.9, "error": 3 / 180}
NOTHING = {"images": 200, "accepted": 0, "errors": 0, "coverage": 0.0, "error": None}


def card_of(**changes):
    return {
        **dict.fromkeys(card.FIELDS),
        "kdjax": "0.1.0",
        "name": "pets",
        "data": {"name": "folder:pets", "version": "1.0.0"},
        "classes": ["cat", "dog"],
        "input": {"shape": [8, 9, 3]},
        "score": {"name": "margin", "pnorm": 2.0},
        "threshold": 0.75,
        "certificate": {"risk": 0.02, "delta": 0.05, "examples": 1000},
        "operating_point": {
            "source": "certificate",
            "requested": {"risk": 0.02},
            "figures": {"dev": FIGURES, "test": FIGURES},
            "bound": None,
        },
        "test": {"examples": 200, "accuracy": 0.955},
        "files": {"model.onnx": {"sha256": "ab" * 32, "written_by": "jax2onnx 1.0"}},
        "notes": ["A note."],
        **changes,
    }


def rows(page):
    """Returns the cells of the rows of the tables."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines]


def test_page_states_the_promise_the_figures_and_the_files():
    page = card_page.render(card_of())
    assert page.startswith("# pets\n")
    assert "at most 2 % are wrong" in page and "errs with probability at most 5 %" in page
    assert "accuracy 95.5 % on 200 test images" in page
    cells = rows(page)
    assert ["test", "200", "180", "90 %", "3", "1.667 %"] in cells
    assert ["model.onnx", f"`{'ab' * 32}`", "jax2onnx 1.0"] in cells
    assert ["threshold from", "certificate (requested at export: risk 0.02)"] in cells
    assert ["accepts", "margin \\>= 0.75"] in cells and "- A note." in page
    for heading in ("Promise", "Figures", "Classes", "Notes and limits", "Files", "Use"):
        assert page.count(f"\n## {heading}\n") == 1


@pytest.mark.parametrize("resize", [*RESIZES, None])
def test_page_says_how_images_of_another_size_are_resized(resize):
    """As `fit` does it with a white image of 20x8 pixels, of which one end is black."""
    model_input = {"shape": [8, 10, 3]} | ({} if resize is None else {"fit": resize})
    page = card_page.render(card_of(input=model_input))
    (cells,) = (row for row in rows(page) if row[0] == "images of another size")
    assert "resizes them to 10x8 pixels" in cells[1]
    picture = np.full((8, 20, 3), 255, np.uint8)
    picture[:, :2] = 0
    pixels, _ = fit(PIL.Image.fromarray(picture), (8, 10, 3), resize or "stretch")
    assert ("with black borders" in cells[1]) == bool((pixels[0] == 0).all())
    assert ("cut off on both ends" in cells[1]) == bool((pixels == 255).all())
    squeezed = (pixels[:, 0] == 0).all() and pixels[0, 5].all()
    assert ("changes its proportions" in cells[1]) == bool(squeezed)


def test_page_of_a_threshold_without_a_certificate_promises_nothing():
    page = card_page.render(card_of(certificate=None))
    assert "\n## Promise\n\nThe threshold has no certificate for a requested risk." in page


def test_page_of_a_model_that_abstains_on_everything_says_so():
    point = {"source": "none", "requested": {}, "figures": {"test": NOTHING}, "bound": None}
    page = card_page.render(card_of(certificate=None, threshold=None, operating_point=point))
    assert "The model abstains on every image" in page
    assert ["accepts", "nothing"] in rows(page)
    assert ["test", "200", "0", "0 %", "0", "-"] in rows(page)


def test_card_of_an_earlier_version_can_be_shown():
    assert "At the threshold" not in card_page.render(card_of(operating_point=None))


@pytest.mark.parametrize("name", ["a|b", "[x](y)", "<script>", "`x`", "*b*", "two\nlines", "猫"])
def test_names_cannot_change_the_page(name):
    plain = card_page.render(card_of())
    page = card_page.render(card_of(name=name, author=name, classes=[name, "dog"]))
    assert page.count("\n") == plain.count("\n")
    assert [len(cells) for cells in rows(page)] == [len(cells) for cells in rows(plain)]
    assert "<script>" not in page and "[x](y)" not in page


def test_many_classes_are_shortened():
    page = card_page.render(card_of(classes=[f"class {i}" for i in range(250)]))
    assert "and 150 more, see card.json" in page


def test_page_has_the_sizes_and_latencies_of_both_networks():
    network = {"model": "nets.py:Net", "parameters": 1234, "multiply_adds": 5_000_000}
    cost = {
        "machine": "cpu, NAME, 2 cores",
        "teacher": {**network, "latency": None},
        "student": {**network, "views": 2, "latency": {"1": 0.001, "256": 0.05}},
    }
    page = card_page.render(card_of(cost=cost))
    cells = rows(page)
    assert ["teacher", "nets.py:Net", "1,234", "1", "5.00 M", "-", "-"] in cells
    assert ["student", "nets.py:Net", "1,234", "2", "5.00 M", "1", "50"] in cells
    assert "cpu, NAME, 2 cores" in page
    assert "\n## Size and speed\n\nNot measured." in card_page.render(card_of())


PROMISED = {
    "selective_risk": {
        "kind": "certified",
        "risk": 0.02,
        "requested": 0.02,
        "delta": 0.05,
        "runs": 1,
        "threshold": 0.75,
        "calibration": {"images": 1000, "accepted": 850, "errors": 9},
        "test": {"images": 200, "accepted": 180, "errors": 3},
    },
}


def test_page_has_the_statements_and_what_they_have_in_common():
    page = card_page.render(card_of(promises=PROMISED))
    section = page.partition("\n## What is promised\n")[2].partition("\n## ")[0]
    for part in (
        "### For which images",
        "### What is not promised",
        "### Errors among the accepted images",
        "at most 2 % get a wrong class. As delivered, it accepted 180 of 200 (90.0 %) test images.",
        "Holds alone, with a probability of at least 95 %.",
        "### How a promise can fail",
        "- By chance: ",
    ):
        found, section = section.partition(part)[1:]  # in this order
        assert found


def test_page_shows_the_table_of_a_statement():
    split = {"images": 200, "accepted": 180, "errors": 3}
    rung = {"risk": 0.02, "threshold": 0.7, "calibration": split, "test": split}
    alone = {"learn_then_test": {"bound": 0.02, **rung}, "sgr": {"bound": 0.02, **rung}}
    ladder = {
        "risk": 0.02,
        "delta": 0.05,
        "runs": 1,
        "level": 0.05,
        "alone_used": True,
        "rungs": [{**rung, "alone": alone}],
    }
    cells = rows(card_page.render(card_of(promises={"ladder": ladder})))
    assert ["2 % \\*", "90.0 %", "90.0 %", "1.67 %", "90.0 % (in use)"] in cells


def test_page_of_a_certificate_of_risk_and_coverage_states_both():
    certificate = {"risk": 0.02, "delta": 0.05, "examples": 1000, "least_coverage": 0.8}
    page = card_page.render(card_of(certificate=certificate))
    assert "at most 2 % are wrong, and at least 80.0 % of all images are accepted, as" in page


def test_promised_risk_is_not_rounded_down():
    certificate = {"risk": 0.0123456, "delta": 0.0123456, "examples": 1000}
    page = card_page.render(card_of(certificate=certificate))
    assert "at most 1.23456 % are wrong" in page
    assert "errs with probability at most 1.23456 %." in page


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["model.onnx"], "without kdjax: the ONNX file with onnxruntime."),
        (["model.stablehlo"], "without kdjax: the StableHLO file with `jax.export.deserialize`."),
        (["model.stablehlo", "model.onnx"], "deserialize`, the ONNX file with onnxruntime."),
    ],
)
def test_page_says_with_what_its_files_run(names, text):
    page = card_page.render(card_of(files={name: {"sha256": "ab" * 32} for name in names}))
    use = page.partition("\n## Use\n")[2]
    assert text in use
    assert ("StableHLO file" in use) == ("model.stablehlo" in names)
    assert ("ONNX file" in use) == ("model.onnx" in names)


def test_card_of_an_earlier_version_has_no_statements():
    assert "What is promised" not in card_page.render(card_of(promises=None))
