"""experiments/export_check.py: what it compares, and its exit status.

`export/test_export.py` runs it on exported files.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.experiments import load, run_main

from kdjax import selective
from kdjax.evaluation import predictions
from kdjax.evaluation.predictions import Predictions

IMAGES = 30
THRESHOLD = 0.8


@pytest.fixture
def check():
    return load("export_check")


def logits():
    return np.random.default_rng(0).normal(size=(IMAGES, 5)).astype(np.float32) * 3


def accepts(values):
    return selective.numpy_scores(2.0)["softmax_response"](values) >= THRESHOLD


@pytest.fixture
def compare(check, tmp_path, monkeypatch):
    """Returns a function from the outputs of the file to its comparison with the run."""
    predicted = Predictions(logits(), np.zeros(IMAGES, np.int32))
    predictions.save(tmp_path / "run" / "predictions" / "test.npz", predicted)
    model_card = {
        "score": {"name": "softmax_response", "pnorm": 2.0},
        "threshold": THRESHOLD,
        "files": ["model.onnx"],
    }
    images = np.zeros((IMAGES, 2, 2, 1), np.uint8)
    dataset = SimpleNamespace(test=SimpleNamespace(images=images))
    monkeypatch.setattr(check.card, "read", lambda folder: model_card)
    monkeypatch.setattr(check.restore, "load_dataset", lambda workdir, data_dir: dataset)

    def run(values, accepted, outlier=None, **changes):
        model_card.update(changes)
        arrays = {"logits": values, "accepted": accepted}
        arrays |= {} if outlier is None else {"outlier": outlier}
        monkeypatch.setattr(check, "outputs", lambda file, given: arrays)
        (comparison,) = check.compare(tmp_path / "run", tmp_path / "model")
        return comparison

    return run


def test_file_that_decides_like_the_run_agrees(check, compare):
    values = logits()
    values[3, 2] += 5e-5
    comparison = compare(values, accepts(logits()))
    assert comparison.images == IMAGES and comparison.decisions == 0
    assert comparison.difference == pytest.approx(5e-5, rel=0.05)
    assert comparison.accepted == np.sum(accepts(logits())) not in (0, IMAGES)
    assert check.agree([comparison])


def test_what_the_gate_of_the_file_stops_is_abstained(check, compare):
    accepted = accepts(logits())
    outlier = np.arange(IMAGES) % 3 == 0
    comparison = compare(logits(), accepted & ~outlier, outlier=outlier)
    assert comparison.decisions == 0 and check.agree([comparison])
    assert comparison.accepted < accepted.sum()
    # A file that accepts what its gate stops differs.
    wrong = compare(logits(), accepted, outlier=outlier)
    assert wrong.decisions == np.sum(accepted & outlier) > 0


def test_each_class_has_its_threshold(check, compare):
    values = logits()
    classes = values[:, :-1].argmax(axis=1)
    thresholds = np.linspace(0, 1.2, values.shape[1] - 1)
    thresholds[thresholds > 1] = np.inf
    confidence = selective.numpy_scores(2.0)["softmax_response"](values)
    accepted = confidence >= thresholds[classes]
    given = [None if np.isinf(value) else float(value) for value in thresholds]
    assert compare(values, accepted, class_thresholds=given).decisions == 0
    assert compare(values, accepts(values), class_thresholds=given).decisions > 0


def test_every_differing_decision_is_counted_in_either_direction(check, compare):
    accepted = accepts(logits())
    changed = accepted.copy()
    changed[np.flatnonzero(accepted)[0]] = False
    changed[np.flatnonzero(~accepted)[:2]] = True
    comparison = compare(logits(), changed)
    assert comparison.decisions == 3 and comparison.accepted == accepted.sum() + 1
    assert not check.agree([comparison])


def test_without_a_threshold_the_run_accepts_nothing(compare):
    nothing = np.zeros(IMAGES, bool)
    assert compare(logits(), nothing, threshold=None).decisions == 0
    assert compare(logits(), ~nothing, threshold=None).decisions == IMAGES


def test_one_file_that_differs_is_enough(check):
    good = check.Comparison("model.onnx", 10, 1e-5, 4, 0)
    assert check.agree([]) and check.agree([good, good])
    assert not check.agree([good, good._replace(difference=np.inf)])


@pytest.mark.parametrize("decisions", [0, 2])
def test_exit_status_is_1_if_a_file_differs(check, monkeypatch, capsys, tmp_path, decisions):
    comparison = check.Comparison("model.onnx", 359, 2.5e-6, 300, decisions)
    monkeypatch.setattr(check, "compare", lambda *_: [comparison])
    with pytest.raises(SystemExit) as exit_info:
        run_main(check, monkeypatch, f"--workdir={tmp_path}", f"--model={tmp_path}")
    assert int(exit_info.value.code) == bool(decisions)
    assert capsys.readouterr().out == (
        "model.onnx: largest difference of a logit 2.5e-06 on 359 test images; 300 accepted; "
        f"{decisions} decisions differ from those of the run\n"
    )


@pytest.mark.parametrize("name", ["model.stablehlo", "model.onnx"])
def test_process_of_a_file_cannot_import_the_library(check, name):
    (names,) = [
        line for line in check.PROGRAMS[name].splitlines() if line.startswith("sys.modules.update")
    ]
    code = f"import sys\n{names}\ntry:\n    import kdjax\nexcept ImportError:\n    print('absent')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "absent\n"
    library = {"model.stablehlo": "onnxruntime", "model.onnx": "jax"}[name]
    assert json.dumps(library)[1:-1] in names


def test_outputs_are_those_of_the_process_for_all_images(check, monkeypatch, tmp_path):
    """The process is replaced by one that runs the program on a stand-in for the model."""
    images = np.random.default_rng(0).integers(0, 256, (1201, 2, 2, 1), np.uint8)
    load_model = """
def run(images):
    sums = images.astype(np.float32).sum(axis=(1, 2))
    return sums, sums[:, 0] > 500, sums[:, 0], sums[:, 0] > 600
"""
    program = check.PROGRAM.format(forbidden=("kdjax",), load=load_model)
    monkeypatch.setitem(check.PROGRAMS, "model.onnx", program)
    found = check.outputs(tmp_path / "model.onnx", images)
    sums = images.astype(np.float32).sum(axis=(1, 2))
    assert set(found) == {"logits", "label", "confidence", "accepted"}
    np.testing.assert_array_equal(found["logits"], sums)
    np.testing.assert_array_equal(found["accepted"], sums[:, 0] > 600)
