"""The gate of a run: its scores, the certificate of what passes, results, report and commands."""

import json
import math
import pathlib
import shutil
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy.stats import beta
from support.commands import assert_refused, command
from support.gated_runs import ACCEPTANCE, RISK, gated_config
from support.runs import tiny

from kdjax import data, pipeline, selective
from kdjax.data import deployment_views
from kdjax.errors import InputError
from kdjax.evaluation import (
    certification,
    evaluate,
    gate,
    predictions,
    promises,
    robustness,
    summary,
)
from kdjax.evaluation.gate import Gate
from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.requested_point import PointRequest, acceptance, requested_point
from kdjax.report import console
from kdjax.report import page as report_page
from kdjax.runs import restore
from kdjax.selective import outliers

SPLITS = ("dev", "calibration", "test")


@pytest.fixture(scope="module")
def run(gated_run):
    """Workdir, data set and results of a run with the gate mahalanobis."""
    results = json.loads((gated_run / "results.json").read_text())
    return gated_run, restore.load_dataset(gated_run), results


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run")


def saved(folder: pathlib.Path) -> dict[str, Predictions]:
    return {split: predictions.load(predictions.path_of(folder, split)) for split in SPLITS}


def averaged_features(folder: pathlib.Path, dataset: data.Dataset, split: str) -> np.ndarray:
    """The output of the tiny network's last batch normalization after ReLU, over its views."""
    model, variables = restore.restore(folder)

    @jax.jit
    def features(images: jax.Array) -> Any:
        _, state = model.apply(
            variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
        (normalized,) = jax.tree.leaves(state["intermediates"]["BatchNorm_0"])
        return nn.relu(normalized).reshape((len(images), -1))

    images = np.asarray(getattr(dataset, split).images)
    views = deployment_views.views("shift", flip=False)
    shifted = [np.asarray(deployment_views.apply_view(images, view)) for view in views]
    scaled = [np.float32((view / 255.0 - dataset.mean) / dataset.std) for view in shifted]
    return np.mean([np.float64(features(view)) for view in scaled], axis=0)


@pytest.mark.slow
def test_scores_are_those_of_the_features_averaged_over_the_views_and_fitted_on_train(run):
    folder, dataset, _ = run
    labels = np.asarray(dataset.train.labels)
    fitted = outliers.fit_gaussian(
        averaged_features(folder, dataset, "train"), labels, num_classes=10
    )
    for split, outputs in saved(folder).items():
        expected = outliers.mahalanobis(averaged_features(folder, dataset, split), fitted)
        np.testing.assert_allclose(outputs.gate, expected, rtol=1e-3)


def test_threshold_comes_from_dev_and_the_certified_share_from_calibration(run):
    folder, _, results = run
    outputs, gate = saved(folder), results["gate"]
    threshold = outliers.threshold_to_certify(
        outputs["dev"].gate, acceptance=ACCEPTANCE, examples=len(outputs["calibration"].labels)
    )
    assert gate["threshold"] == threshold and gate["name"] == "mahalanobis"
    passed = {split: int(np.sum(outputs[split].gate >= threshold)) for split in SPLITS}
    for split in SPLITS:
        assert gate[split] == {"examples": len(outputs[split].labels), "passed": passed[split]}
    total = len(outputs["calibration"].labels)
    assert passed["calibration"] < total
    bound = beta.ppf(0.05, passed["calibration"], total - passed["calibration"] + 1)
    assert gate["bound"] == pytest.approx(bound, rel=1e-12)


@pytest.mark.slow
def test_certificate_is_that_of_the_images_that_pass(run):
    folder, _, results = run
    outputs, threshold = saved(folder), results["gate"]["threshold"]
    score = certification.scores_of(results)[results["best_score"]]
    kept = {split: outputs[split].gate >= threshold for split in SPLITS}
    confidence = {split: score(outputs[split].logits) for split in SPLITS}
    correct = {split: outputs[split].correct for split in SPLITS}
    calibration, test = (
        (confidence[split][kept[split]], correct[split][kept[split]])
        for split in ("calibration", "test")
    )
    expected = selective.learn_then_test(*calibration, risk=RISK, delta=0.05)
    found = certification.requested_certificate(results["guarantee"])
    assert math.isfinite(expected.threshold) and found["threshold"] == expected.threshold
    accepted = calibration[0] >= expected.threshold
    assert found["coverage"] == pytest.approx(accepted.sum() / len(kept["calibration"]))
    accepted = test[0] >= expected.threshold
    assert found["test_coverage"] == pytest.approx(accepted.sum() / len(kept["test"]))
    assert found["test_error"] == pytest.approx(np.mean(~test[1][accepted]))
    assert sum(results["per_class"]["true"]["accepted"]) == accepted.sum()
    stated = results["promises"]["selective_risk"]
    assert stated["threshold"] == expected.threshold


def test_all_statements_are_about_images_that_pass_and_one_says_how_many_do(run):
    _, _, results = run
    by_title = {each.title: each for each in promises.statements(results)}
    own = by_title.pop("Images unlike those of training")
    share = math.floor(1000 * results["gate"]["bound"]) / 10
    assert f"At least {share:.1f} % of the new images" in own.sentences[0]
    assert "(requested: 90 %)" in own.sentences[0] and "pass the gate" not in own.scope
    assert by_title and all(each.scope.endswith("pass the gate") for each in by_title.values())
    without = {**results, "promises": {**results["promises"]}}
    del without["promises"]["gate"]
    assert not any("gate" in each.scope for each in promises.statements(without))


@pytest.mark.slow
def test_without_a_gate_nothing_of_it_is_written(run, copied):
    _, dataset, gated = run
    results = evaluate.evaluate(copied, dataset, gate="none")
    assert "gate" not in results and "gate" not in results["promises"]
    assert not (copied / "predictions" / "gate.npz").exists()
    with np.load(copied / "predictions" / "test.npz") as arrays:
        assert sorted(arrays) == ["labels", "logits"]
        np.testing.assert_allclose(arrays["logits"], saved(run[0])["test"].logits, atol=1e-5)
    assert results["best_score"] == gated["best_score"]


@pytest.mark.slow
def test_energy_needs_the_logits_only(run, copied):
    _, dataset, _ = run
    results = evaluate.evaluate(copied, dataset, gate="energy", gate_acceptance=0.8)
    outputs = saved(copied)
    assert outputs["test"].gate is None and results["gate"]["acceptance"] == 0.8
    logits = np.float64(outputs["test"].logits[:, :-1])
    energy = np.log(np.exp(logits).sum(axis=1))
    passed = int(np.sum(energy >= results["gate"]["threshold"]))
    assert results["gate"]["test"]["passed"] == passed < len(logits)


@pytest.mark.slow
def test_a_share_that_cannot_be_certified_stops_nothing(run, copied):
    _, dataset, _ = run
    results = evaluate.evaluate(copied, dataset, gate="energy", gate_acceptance=0.9999)
    gate = results["gate"]
    assert gate["threshold"] is None and gate["bound"] == 1
    assert all(gate[split]["passed"] == gate[split]["examples"] for split in SPLITS)
    own = promises.statements(results)[-1]
    assert own.sentences[0].startswith("The gate stops no image: 719 calibration images")
    ungated = evaluate.evaluate(copied, dataset, gate="none")
    assert results["guarantee"] == ungated["guarantee"]


@pytest.mark.slow
def test_shifts_show_what_is_accepted_with_and_without_the_gate(run, copied, capsys):
    folder, dataset, results = run
    shifts = robustness.evaluate_shifts(copied, ["noise", "ood:digits"], dataset=dataset)
    clean, other = shifts["clean"], shifts["ood"]["digits"]
    point = certification.operating_point(results, fallback_coverage="90")
    outputs = saved(folder)["test"]
    confidence = np.float64(certification.scores_of(results)[point.score](outputs.logits))
    passed, above = outputs.gate >= results["gate"]["threshold"], confidence >= point.threshold
    assert shifts["gate"] == {"name": "mahalanobis", "threshold": results["gate"]["threshold"]}
    assert clean["passed"] == pytest.approx(passed.mean())
    assert clean["coverage"] == pytest.approx(np.mean(passed & above))
    assert clean["without_gate"]["coverage"] == pytest.approx(above.mean())
    assert clean["error"] == pytest.approx(np.mean(~outputs.correct[passed & above]))
    assert other["accepted"] == clean["coverage"] and other["gate_auroc"] == 0.5
    assert other["without_gate"]["accepted"] == clean["without_gate"]["coverage"]
    for line in shifts["shifts"]["noise"]:
        assert line["coverage"] <= min(line["passed"], line["without_gate"]["coverage"])
    console.show_shift(shifts, "run")
    assert "gate passes %" in capsys.readouterr().out
    text = report_page.write(report_page.read(copied), dataset.test).read_text()
    assert "Without the gate it would accept" in text and "passed by the gate" in text
    assert "Images unlike those of training" in text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_report_leaves_out_shifts_of_another_gate(run, copied):
    _, dataset, _ = run
    robustness.evaluate_shifts(copied, ["ood:digits"], dataset=dataset)
    content = json.loads((copied / "shift.json").read_text())
    content["gate"]["threshold"] -= 1
    (copied / "shift.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="evaluated at the gate mahalanobis at"):
        report_page.write(report_page.read(copied))


def test_requested_points_count_what_the_gate_stops(run):
    folder, _, results = run
    outputs, gate = saved(folder), results["gate"]["threshold"]
    score = certification.scores_of(results)[results["best_score"]]
    point = requested_point(results, outputs, PointRequest(coverage=0.6))
    on_dev = outputs["dev"]
    accepted = (score(on_dev.logits) >= point.threshold) & (on_dev.gate >= gate)
    assert accepted.sum() == math.ceil(0.6 * len(on_dev.labels))
    assert acceptance(point, on_dev)["accepted"] == accepted.sum()
    with pytest.raises(InputError, match=r"coverage 1: the gate passes 0\.9\d* of dev"):
        requested_point(results, outputs, PointRequest(coverage=1.0))
    classwise = requested_point(results, outputs, PointRequest(classwise=True))
    assert classwise.gate == point.gate == Gate("mahalanobis", gate)


@pytest.mark.slow
def test_thresholds_by_coverage_on_dev_count_what_the_gate_stops(run):
    folder, _, results = run
    outputs, gate = saved(folder), results["gate"]["threshold"]
    passed = {split: outputs[split].gate >= gate for split in SPLITS}
    scores = certification.scores_of(results)
    for name, values in results["scores"].items():
        confidence = {split: scores[name](outputs[split].logits) for split in SPLITS}
        for key, chosen in values["thresholds"].items():
            accepted = {
                split: passed[split] & (confidence[split] >= chosen["threshold"])
                for split in SPLITS
            }
            reached = chosen.get("dev_coverage", int(key) / 100)
            assert reached == min(int(key) / 100, passed["dev"].mean())
            assert accepted["dev"].sum() == math.ceil(reached * len(passed["dev"]) - 1e-9)
            assert chosen["test_coverage"] == accepted["test"].mean()
            wrong = ~outputs["test"].correct
            assert chosen["test_error"] == pytest.approx(wrong[accepted["test"]].mean())


@pytest.mark.slow
def test_a_coverage_that_the_gate_does_not_pass_is_that_of_all_it_passes(capsys):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 5)).astype(np.float32), rng.integers(4, size=200)
    split = Predictions(logits, labels)
    energy = np.log(np.exp(np.float64(logits[:, :-1])).sum(axis=1))
    gate = {"name": "energy", "threshold": float(np.median(energy))}
    splits = dict.fromkeys(SPLITS, split)
    results = summary.summarize(splits, abstains=False, risk=0.001, delta=0.05, gate=gate)
    point = certification.operating_point(results, fallback_coverage="90")
    assert point.source == "dev, 50 % coverage"
    assert acceptance(point, split)["accepted"] == 100
    console.show(results | {"views": "none"}, "run")
    shown = capsys.readouterr().out.partition("coverage % on dev")[2]
    coverages = [line.split()[1] for line in shown.splitlines() if line.startswith("│")]
    assert coverages == ["50"] * 6 or coverages[:6] == ["50"] * 6, coverages


def test_predictions_of_another_gate_are_refused(run):
    outputs = saved(run[0])["test"]
    with pytest.raises(InputError, match="without the scores of the gate mahalanobis"):
        Gate("mahalanobis", -1.0).passes(outputs.logits)


def test_gate_scores_are_saved_and_damaged_ones_are_refused(run, tmp_path):
    outputs = saved(run[0])["dev"]
    path = tmp_path / "dev.npz"
    predictions.save(path, outputs)
    np.testing.assert_array_equal(predictions.load(path).gate, outputs.gate)
    for damaged in (outputs.gate[1:], np.full_like(outputs.gate, np.nan)):
        predictions.save(path, outputs._replace(gate=damaged))
        with pytest.raises(InputError, match=r"gate must hold finite numbers \[144\]"):
            predictions.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selective.gate": "energi"}, "unknown selective.gate 'energi': did you mean 'energy'"),
        ({"selective.gate_acceptance": 1.0}, "gate_acceptance.* 1"),
        ({"selective.gate_acceptance": 0.0}, "gate_acceptance.* 0"),
    ],
)
def test_config_refuses_other_values(changes, message, data_dir):
    with pytest.raises(InputError, match=message):
        tiny(data_dir, **changes)


def test_a_share_without_a_gate_is_refused(data_dir):
    config = tiny(data_dir)
    assert gate.request(config).name == "none"
    with pytest.raises(InputError, match=r"gate_acceptance 0\.9 has no effect without a gate"):
        gate.request(config, acceptance=0.9)


def test_a_network_without_features_is_refused_before_training(data_dir, tmp_path):
    source = tmp_path / "own.py"
    source.write_text(
        "import flax.linen as nn\n"
        "class Net(nn.Module):\n"
        "    num_outputs: int\n"
        "    @nn.compact\n"
        "    def __call__(self, images):\n"
        "        return nn.Conv(self.num_outputs, (3, 3))(images).mean(axis=(1, 2))\n"
    )
    changes = {"student.model": f"{source}:Net", "student.width": 0}
    with pytest.raises(InputError, match="has no features for the gate mahalanobis"):
        pipeline.train(gated_config(data_dir, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_training_warns_of_a_gate_that_can_stop_nothing(data_dir, tmp_path):
    changes = {"selective.gate_acceptance": 0.999, "student.epochs": 1, "student.warmup_epochs": 0}
    with pytest.warns(RuntimeWarning, match="will stop no image: 719 calibration images"):
        pipeline.train(gated_config(data_dir, **changes), tmp_path / "run")


def test_a_teacher_has_no_gate(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "teacher")
    dataset = restore.load_dataset(folder)
    with pytest.raises(InputError, match=r"gate 'energy': .* workdir of a teacher"):
        evaluate.evaluate(folder, dataset, gate="energy")


@pytest.mark.slow
def test_commands_take_another_gate(run, copied):
    with pytest.raises(InputError, match="unknown gate 'energi'"):
        evaluate.evaluate(copied, run[1], gate="energi")
    with pytest.raises(InputError, match=r"gate_acceptance must lie in \(0, 1\)"):
        evaluate.evaluate(copied, run[1], gate_acceptance=2)
    flags = f"--workdir={copied}", "--gate=energy"
    assert_refused(
        command("evaluate", *flags, "--risk=0.1", "--shift=noise"),
        "run the command with --risk and --gate and without --shift first",
    )
    done = command("evaluate", *flags, "--gate_acceptance=0.7")
    assert done.returncode == 0, done.stderr
    gate = json.loads((copied / "results.json").read_text())["gate"]
    assert (gate["name"], gate["acceptance"]) == ("energy", 0.7)
