"""Export with a gate: both files, the card, predictions and the check decide like the run."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from support.gated_runs import ACCEPTANCE

from kdjax.evaluation import evaluate, predictions
from kdjax.evaluation.promises import words
from kdjax.export import card, card_page, formats, onnx_metadata
from kdjax.export.exporter import export
from kdjax.predict import load, rows
from kdjax.predict.images import LoadedImage
from kdjax.report.page import runs, single
from kdjax.runs import restore


@pytest.fixture(scope="module")
def run(gated_run, tmp_path_factory):
    """A copy of the run, which the tests evaluate with other gates, and its data set."""
    folder = shutil.copytree(gated_run, tmp_path_factory.mktemp("gate") / "run")
    return folder, restore.load_dataset(folder)


@pytest.fixture(scope="module", params=["mahalanobis", "energy"])
def exported(request, run, tmp_path_factory):
    """The results of the run with a gate, its model card and the folder of the model."""
    folder, dataset = run
    results = evaluate.evaluate(folder, dataset, gate=request.param)
    out = tmp_path_factory.mktemp("models") / "model"
    return results, export(folder, out), out


def decisions(run, results):
    """Gate score, whether the gate stops, and whether the run accepts each test image."""
    outputs = predictions.load(predictions.path_of(run[0], "test"))
    scores = outputs.gate
    if results["gate"]["name"] == "energy":
        scores = np.log(np.exp(np.float64(outputs.logits[:, :-1])).sum(axis=1))
    return scores, scores < results["gate"]["threshold"]


@pytest.mark.slow
def test_files_and_card_decide_like_the_run(run, exported):
    results, model_card, out = exported
    scores, stopped = decisions(run, results)
    images = np.asarray(run[1].test.images)
    model, run_onnx = load(out), formats.run_onnx((out / "model.onnx").read_bytes())
    for found in (model(images), run_onnx(images)):
        np.testing.assert_allclose(found.gate_score, scores, rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(found.outlier, stopped)
        assert not found.accepted[stopped].any()
    assert 0 < stopped.sum() < len(stopped)
    confident = model(images).score >= model_card["threshold"]
    np.testing.assert_array_equal(model(images).accepted, confident & ~stopped)
    assert (confident & stopped).any()
    for file in model_card["files"].values():
        assert file["calibration"]["different_decisions"] == file["different_decisions"] == 0


@pytest.mark.slow
def test_card_says_what_the_gate_does(exported):
    results, model_card, out = exported
    gate = model_card["gate"]
    assert card.read(out)["gate"] == gate
    assert {"gate_score", "outlier"} < model_card["outputs"].keys()
    assert gate["acceptance"] == ACCEPTANCE
    for name in ("name", "threshold", "delta", "calibration", "test"):
        assert gate[name] == results["gate"][name]
    assert model_card["promises"]["gate"]["bound"] == gate["bound"]
    passing = [note for note in model_card["notes"] if note.startswith(f"The gate {gate['name']}")]
    assert len(passing) == 1 and f"at least {words.percent_down(gate['bound'])} of" in passing[0]
    text = card_page.render(model_card)
    assert f"{gate['name']}: images unlike those of training are stopped" in text
    figures = model_card["operating_point"]["figures"]["test"]
    assert figures["accepted"] <= gate["test"]["passed"]


@pytest.mark.slow
def test_rows_of_images_that_the_gate_stops_have_a_note(run, exported):
    results, _, out = exported
    _, stopped = decisions(run, results)
    chosen = [np.flatnonzero(stopped)[0], np.flatnonzero(~stopped)[0]]
    images = np.asarray(run[1].test.images)[chosen]
    batch = [LoadedImage("a.png", None, images[0], "resized"), LoadedImage("b", 1, images[1], "")]
    model = load(out)
    first, second = rows.rows(batch, model(images), model.card["classes"])
    assert first["note"] == "outlier; resized" and first["abstain"]
    assert second["note"] == ""
    assert "(outlier; resized)" in rows.text_line(first, 4)
    assert json.loads(rows.json_line(first))["note"] == "outlier; resized"


@pytest.mark.slow
def test_without_the_data_set_the_files_decide_by_what_the_run_has_saved(
    run, tmp_path, monkeypatch
):
    folder, dataset = run
    results = evaluate.evaluate(folder, dataset)
    monkeypatch.setattr("kdjax.data.is_prepared", lambda *_: False)
    model_card = export(folder, tmp_path / "model")
    assert model_card["gate"]["threshold"] == results["gate"]["threshold"]
    assert "random pixels" in model_card["checked"]["on"]
    assert all(file["different_decisions"] == 0 for file in model_card["files"].values())


@pytest.mark.slow
def test_a_model_without_a_gate_has_four_outputs(run, tmp_path):
    folder, dataset = run
    evaluate.evaluate(folder, dataset, gate="none")
    model_card = export(folder, tmp_path / "model")
    assert model_card["gate"] is None and "outlier" not in model_card["outputs"]
    outputs = formats.run_onnx((tmp_path / "model" / "model.onnx").read_bytes())(
        np.asarray(dataset.test.images[:3])
    )
    assert outputs.outlier is None and outputs.gate_score is None
    prediction = load(tmp_path / "model")(PIL.Image.new("L", (8, 8)))
    assert prediction.outlier is None


@pytest.mark.slow
def test_report_and_card_name_the_gate_where_they_name_the_threshold(run, exported, tmp_path):
    results, model_card, _ = exported
    name, passed = results["gate"]["name"], results["gate"]["calibration"]["passed"]
    evaluate.evaluate(*run, gate=name)
    page = single.write(runs.read(run[0]), out=tmp_path / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert f"and its image passes the gate ({name}). Learn then Test" in text
    assert f"{passed} of 719 images, those that pass the gate, that are used for nothing" in text
    assert "predictions to its right are accepted if their images pass the gate." in text
    promise = card_page.promise(model_card)
    assert f"certified on {passed} calibration images that pass its gate by" in promise
    description = onnx_metadata.description(model_card)
    assert "accepted (false: the model abstains), gate_score, outlier (true: the" in description
