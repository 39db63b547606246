"""The prediction set with an abstention: of the loaded model, and in the lines of the command."""

import csv
import io
import json

import numpy as np
import pytest
from support.colours import CLASSES, SHAPE, function, pictures, write

from kdjax import selective
from kdjax.export import formats
from kdjax.predict import load, rows, sets
from kdjax.predict.images import LoadedImage

# The logits of the model are the brightness of the colours, from 0 to 1; its threshold is 0.5.
QUANTILE = 0.8


def promise(quantile=QUANTILE, below=0.5, **changes):
    rejected = {"quantile": quantile, "below": below, "examples": 40, "conditional": True}
    return {
        "sets": {"method": "lac", "k_reg": None, "penalty": None, "rejected": rejected} | changes
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "colours"
    return load(write(folder, formats.to_stablehlo(function(0.5), SHAPE), promises=promise()))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 200, (12, 1, 1, 3), np.uint8) * np.ones(
        (1, *SHAPE), np.uint8
    )


def with_card(model, **changes):
    return model._replace(card={**model.card, **changes})


def lines(model, images, write_row):
    batch = [LoadedImage(f"{i}.png", None, image, "") for i, image in enumerate(images)]
    for row in rows.rows(batch, model(images), CLASSES):
        write_row(row)


def test_abstained_images_have_the_classes_up_to_the_quantile_by_probability(model, images):
    prediction = model(images)
    assert 0 < prediction.accepted.sum() < len(images)
    scores = selective.lac(prediction.logits, abstention=True)
    for i, names in enumerate(prediction.sets):
        if prediction.accepted[i]:
            assert names == (prediction.labels[i],)
            continue
        expected = [k for k in np.argsort(-prediction.logits[i, :3]) if scores[i, k] <= QUANTILE]
        assert names == tuple(CLASSES[k] for k in expected)
        assert names[0] == prediction.labels[i]
    assert {len(names) for names in prediction.sets} >= {1, 2, 3}


@pytest.mark.parametrize(
    ("values", "size"), [(promise(quantile=-99.0), 1), (promise(quantile=None), 3)]
)
def test_set_has_the_predicted_class_at_least_and_all_classes_at_most(model, images, values, size):
    prediction = with_card(model, promises=values)(images)
    sizes = {len(names) for names in np.array(prediction.sets, object)[~prediction.accepted]}
    assert sizes == {size}


def test_confidence_from_the_first_failed_threshold_up_puts_all_classes_on_the_set(model, images):
    prediction = with_card(model, promises=promise(quantile=-99.0, below=0.4))(images)
    between = (prediction.score >= 0.4) & ~prediction.accepted
    assert between.any() and (prediction.score < 0.4).any()
    for i, names in enumerate(prediction.sets):
        assert len(names) == (3 if between[i] else 1)


def test_sets_are_those_of_each_image_alone():
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(200, 6)), 1)  # with ties
    score, accepted, outlier = rng.random(200), rng.random(200) < 0.3, rng.random(200) < 0.2
    accepted &= ~outlier
    for method, options in (("lac", {}), ("aps", {}), ("raps", {"k_reg": 2, "penalty": 0.1})):
        values = promise(0.7, 0.8, method=method, **options)
        names = [f"class {k}" for k in range(5)]
        found = sets.sets_of(
            {"classes": names, "promises": values}, logits, score, accepted, outlier
        )
        members = selective.set_rule(values["sets"]).sets(logits[:, :5], score)
        for i, row in enumerate(found):
            order = sorted(range(5), key=lambda k, i=i: (-logits[i, k], k))
            expected = order[:1] if accepted[i] else [k for k in order if members[i, k]]
            assert row == (() if outlier[i] else tuple(names[k] for k in expected))


def test_sets_are_made_only_where_they_are_needed(model, images):
    assert model(images, with_sets=False).sets is None
    assert model(images, with_sets=True).sets == model(images).sets is not None


def test_stopped_images_have_no_set(model):
    logits = np.zeros((3, 4), np.float32)
    accepted, outlier = np.array([True, False, False]), np.array([False, False, True])
    found = sets.sets_of(model.card, logits, np.zeros(3), accepted, outlier)
    assert found == (("red",), ("red", "green", "blue"), ())


def test_teacher_without_an_abstention_column_has_sets_too(model):
    logits = np.array([[0.0, 3.0, 2.5]], np.float32)
    found = sets.sets_of(model.card, logits, np.zeros(1), np.zeros(1, bool))
    assert found == (("green", "blue"),)


@pytest.mark.parametrize("promises", [None, {}, {"selective_risk": {}}])
def test_model_of_an_earlier_version_has_no_sets(model, images, promises):
    old = with_card(model, promises=promises)
    prediction = old(images)
    assert prediction.sets is None
    assert prediction.labels.tolist() == model(images).labels.tolist()
    texts = []
    lines(old, images, lambda row: texts.append(rows.text_line(row, 7)))
    lines(old, images, lambda row: texts.append(rows.json_line(row)))
    assert not any("one of" in text or '"set"' in text for text in texts)
    assert any(text.startswith("abstain  ") for text in texts)


# The lines of the command


def test_text_names_the_set_with_an_abstention(model):
    images = pictures([0, 1, 2], [255, 100, 0])
    for quantile, expected in ((None, "any class"), (-99.0, "perhaps: green")):
        texts = []
        changed = with_card(model, promises=promise(quantile=quantile))
        lines(changed, images, lambda row, texts=texts: texts.append(rows.text_line(row, 7)))
        assert texts[0].startswith("red      1.0000  ")
        assert texts[1].startswith(f"abstain ({expected})  0.3922  ")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ""),
        ((), ""),
        (("cat",), " (perhaps: cat)"),
        (("cat", "dog"), " (one of: cat, dog)"),
        (tuple("abcdefgh"), " (one of: a, b, c, d, e, f, g, h)"),
        (tuple("abcdefghij"), " (one of: a, b, c, d, e, f, g, h and 2 more)"),
        (tuple(map(str, range(20))), " (any class)"),
    ],
)
def test_text_of_a_set(names, expected):
    assert sets.text(names, 20) == expected


def test_names_with_line_breaks_stay_on_one_line():
    row = {
        "path": "a.png",
        "label": "x",
        "accepted": False,
        "set": ["x\ny", "z"],
        "confidence": 0.5,
        "probabilities": {"x\ny": 0.5, "z": 0.3, "w": 0.2},
        "note": "",
    }
    assert rows.text_line(row, 7) == r"abstain (one of: x\ny, z)  0.5000  a.png"
    accepted = {**row, "accepted": True, "label": "x\x1b[31m\ny"}
    assert rows.text_line(accepted, 3) == r"x\x1b[31m\ny  0.5000  a.png"


def test_json_and_csv_have_the_set_of_every_image(model, images):
    prediction, objects, file = model(images), [], io.StringIO()
    lines(model, images, lambda row: objects.append(json.loads(rows.json_line(row))))
    lines(model, images, rows.CsvWriter(file, CLASSES).write)
    # The header is written by each writer.
    table = list(csv.DictReader(io.StringIO(file.getvalue())))
    for names, row, cells in zip(prediction.sets, objects, table, strict=True):
        assert tuple(row["set"]) == names
        assert tuple(json.loads(cells["set"])) == names


def test_csv_of_a_model_without_sets_has_an_empty_column(model, images):
    file = io.StringIO()
    lines(with_card(model, promises=None), images, rows.CsvWriter(file, CLASSES).write)
    assert {cells["set"] for cells in csv.DictReader(io.StringIO(file.getvalue()))} == {""}
