"""Export with a threshold for each predicted class: graph, card, prediction and check agree."""

import json

import numpy as np
import onnx
import pytest
from support.tiny_network import TINY_NETWORK

import kdjax.config
from kdjax import pipeline, selective
from kdjax.evaluation import evaluate, predictions
from kdjax.export import card, card_page, formats
from kdjax.export.exporter import export
from kdjax.export.web import page
from kdjax.predict import load, promise_check
from kdjax.runs import restore

RISK = 0.3


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A short run with 719 calibration images, about 70 of each class."""
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.pad": 1,
            "data.flip": False,
            "data.calibration_fraction": 0.5,
            "size": "laptop",
            "objective.method": "ce",
            "selective.risk": RISK,
            "student.model": TINY_NETWORK,
            "student.width": 8,
            "student.epochs": 10,
            "eval_every": 10,
            "student.batch_size": 64,
        }
    )
    folder = tmp_path_factory.mktemp("classwise") / "run"
    dataset = pipeline.train(kdjax.config.resolve(config), folder)
    return folder, dataset, evaluate.evaluate(folder, dataset)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "model"
    return export(run[0], out, classwise=True), out


def expected_rule(folder, model_card):
    outputs = predictions.load(predictions.path_of(folder, "calibration"))
    predicted = outputs.logits[:, :-1].argmax(axis=1)
    score = selective.numpy_scores(model_card["score"]["pnorm"])[model_card["score"]["name"]]
    correct = predicted == outputs.labels
    return score, selective.classwise(score(outputs.logits), correct, predicted, risk=RISK)


@pytest.mark.slow
def test_both_files_decide_like_the_run_by_the_threshold_of_the_predicted_class(run, exported):
    (folder, dataset, _), (model_card, out) = run, exported
    score, rule = expected_rule(folder, model_card)
    certified = [threshold is not None for threshold in model_card["class_thresholds"]]
    assert certified == rule.certified.tolist() and len(set(rule.threshold[certified])) > 1
    model, run_onnx = load(out), formats.run_onnx((out / "model.onnx").read_bytes())
    for split in ("calibration", "test"):
        logits = predictions.load(predictions.path_of(folder, split)).logits
        confidence = np.asarray(score(logits)).astype(np.float64)
        accepted = confidence >= rule.threshold[logits[:, :-1].argmax(axis=1)]
        images = np.asarray(getattr(dataset, split).images)
        np.testing.assert_array_equal(model(images).accepted, accepted)
        np.testing.assert_array_equal(run_onnx(images).accepted, accepted)
        assert 0 < accepted.sum() < len(accepted)
    for file in model_card["files"].values():
        assert file["calibration"]["different_decisions"] == file["different_decisions"] == 0


@pytest.mark.slow
def test_card_has_the_thresholds_the_certificate_and_the_figures(run, exported):
    (folder, _, results), (model_card, out) = run, exported
    _, rule = expected_rule(folder, model_card)
    thresholds = model_card["class_thresholds"]
    known = [threshold for threshold in thresholds if threshold is not None]
    of_run = results["promises"]["by_class"]["threshold"]
    assert [value is None for value in thresholds] == [value is None for value in of_run]
    # The logits are computed again at export.
    assert known == pytest.approx([value for value in of_run if value is not None], abs=1e-4)
    assert known == pytest.approx(rule.threshold[rule.certified].tolist(), abs=1e-4)
    assert model_card["threshold"] == min(known)
    certificate, point = model_card["certificate"], model_card["operating_point"]
    assert certificate["kind"] == "classwise"
    assert certificate["level"] == pytest.approx(rule.level)
    assert (certificate["risk"], certificate["delta"]) == (RISK, 0.05)
    assert point["requested"] == {"classwise": True}
    for split, key in (("calibration", "coverage"), ("test", "test_coverage")):
        assert point["figures"][split]["coverage"] == certificate[key]
    assert point["figures"]["calibration"]["accepted"] == rule.accepted.sum()
    assert point["figures"]["test"]["error"] == certificate["test_error"]
    assert (
        model_card["per_class"]["predicted"]["accepted"]
        == (results["promises"]["by_class"]["test"]["accepted"])
    )
    assert model_card["promises"]["by_class"]["used"] is True
    assert card.read(out) == model_card
    properties = onnx.load(out / "model.onnx").metadata_props
    stored = {entry.key: entry.value for entry in properties}
    assert json.loads(stored["kdjax.class_thresholds"]) == thresholds


@pytest.mark.slow
def test_page_says_for_which_classes_something_is_promised(exported):
    model_card, _ = exported
    text, promise = card_page.render(model_card), card_page.promise(model_card)
    none = [
        name
        for name, threshold in zip(
            model_card["classes"], model_card["class_thresholds"], strict=True
        )
        if threshold is None
    ]
    assert promise in text and "at most 30 % are wrong, for " in promise
    assert ("accepts no image as" in promise) == bool(none)
    assert "accepts from the threshold of the predicted class on" in text
    assert "| predicted class | threshold | test images |" in text
    some = {**model_card, "class_thresholds": [0.5, None, 0.7, *[0.5] * 6, None]}
    assert "for 8 of the 10 classes" in card_page.promise(some)
    assert "It accepts no image as 1 and 9, because" in card_page.promise(some)
    assert page.page_card(some, "1.0")["class_thresholds"][:2] == [0.5, None]


@pytest.mark.slow
def test_check_tests_the_promise_within_each_class(run, exported, tmp_path):
    test = run[1].test
    np.savez(tmp_path / "new.npz", images=test.images, labels=test.labels)
    report = promise_check.check(exported[1], f"npz:{tmp_path / 'new.npz'}")
    promised = [threshold is not None for threshold in exported[0]["class_thresholds"]]
    assert [flag is not None for flag in report["by_class"]["refuted"]] == promised
    assert not report["refuted"] and report["promised_risk"] == RISK
    # What is accepted as one class is now always wrong.
    label = promised.index(True)
    predicted = load(exported[1])(test.images).classes
    wrong = np.where(predicted == label, (label + 1) % 10, test.labels)
    np.savez(tmp_path / "wrong.npz", images=test.images, labels=wrong)
    refuted = promise_check.check(exported[1], f"npz:{tmp_path / 'wrong.npz'}")
    assert refuted["refuted"] and refuted["by_class"]["refuted"][label]


@pytest.mark.slow
def test_a_model_without_any_certified_class_abstains_with_a_warning(run, tmp_path, monkeypatch):
    stablehlo = {formats.STABLEHLO: formats.FORMATS[formats.STABLEHLO]}
    monkeypatch.setattr(formats, "FORMATS", stablehlo)
    with pytest.warns(UserWarning, match="no threshold of any class could be certified"):
        model_card = export(run[0], tmp_path / "model", risk=0.001, classwise=True)
    assert model_card["threshold"] is None and model_card["certificate"] is None
    assert model_card["class_thresholds"] == [None] * 10
    assert model_card["notes"][0].startswith("No threshold of any class could be certified")
    images = restore.load_dataset(run[0]).test.images[:20]
    with pytest.warns(UserWarning, match="abstains on every image"):
        assert not load(tmp_path / "model")(images).accepted.any()
