"""A run with deployment views: evaluation, shifts, export and prediction see the same averages."""

import json
import shutil

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.runs import tiny

from kdjax import models, pipeline
from kdjax.data.augment import normalize
from kdjax.errors import InputError
from kdjax.evaluation import cost, evaluate, network, predictions, robustness
from kdjax.export import card_page
from kdjax.export.exporter import export
from kdjax.predict import load
from kdjax.report import page
from kdjax.runs import teachers, workdir

FIELDS = {
    "data.flip": True, "data.pad": 1, "data.limit": 64, "smoke": False, "eval_batch_size": 32,
    "objective.method": "ka_gambler_sum", "objective.payoff": 5.0, "objective.pretrain_epochs": 1,
    "selective.risk": 0.95, "selective.delta": 0.2, "teacher.epochs": 2, "student.epochs": 3,
    "teacher.batch_size": 16, "student.batch_size": 16, "metric_writers": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The config, the evaluated workdir and the data set of a run with the default views."""
    config, folder = tiny(data_dir, **FIELDS), tmp_path_factory.mktemp("runs") / "run"
    dataset = pipeline.train(config, folder)
    evaluate.evaluate(folder, dataset)
    return config, folder, dataset


@pytest.fixture
def with_views(trained, tmp_path):
    """Returns a function: views, or None for a version without them -> a copy of the workdir."""

    def copy(views):
        folder = shutil.copytree(trained[1], tmp_path / "run", symlinks=True)
        stored = json.loads((folder / "config.json").read_text())
        del stored["config"]["selective"]["views"]
        stored["config"]["selective"] |= {} if views is None else {"views": views}
        (folder / "config.json").write_text(json.dumps(stored))
        return folder

    return copy


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def expected_logits(restored, dataset, split, mirrored=True):
    """The logits by the definition, one view after the other, summed in float64."""
    images = getattr(dataset, split).images
    views = [images, images[:, :, ::-1]] if mirrored else [images]
    with jax.default_matmul_precision("highest"):
        logits = [
            restored.model.apply(
                restored.variables, normalize(view, dataset.mean, dataset.std), train=False
            )
            for view in views
        ]
    return np.mean(np.asarray(logits, np.float64), axis=0)


@pytest.mark.slow
def test_predictions_of_every_split_are_averages_over_the_default_views(trained):
    config, folder, dataset = trained
    assert config.selective.views == results_of(folder)["views"] == "flip"
    restored = network.restore_network(folder)
    for split in predictions.SPLITS:
        logits = predictions.load(predictions.path_of(folder, split)).logits
        assert_allclose(logits, expected_logits(restored, dataset, split), rtol=1e-4, atol=1e-4)
    plain = evaluate.predict_splits(folder, dataset, ["test"], views="none")["test"].logits
    expected = expected_logits(restored, dataset, "test", mirrored=False)
    assert_allclose(plain, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(plain - logits).max() > 1e-2


@pytest.mark.slow
def test_the_teacher_is_evaluated_with_the_views_but_teaches_without_them(trained):
    _, folder, dataset = trained
    teacher = teachers.load(folder / "teacher", dataset)
    results = results_of(folder)
    assert results["teacher"]["views"] == results_of(folder / "teacher")["views"] == "flip"
    logits = predictions.load(predictions.path_of(folder / "teacher", "test")).logits
    assert_allclose(logits, expected_logits(teacher, dataset, "test"), rtol=1e-4, atol=1e-4)
    train = evaluate.predict_teacher(folder, dataset).splits["train"].logits
    expected = expected_logits(teacher, dataset, "train", mirrored=False)
    assert_allclose(train, expected, rtol=1e-4, atol=1e-4)
    # Alone, it is evaluated again as before.
    alone = evaluate.evaluate(folder / "teacher", dataset)
    assert alone["scores"] == results["teacher"]["scores"]


@pytest.mark.slow
def test_averaged_logits_are_those_of_the_run(trained):
    _, folder, dataset = trained
    saved = predictions.load(predictions.path_of(folder, "test")).logits
    logits = network.averaged_logits(folder, dataset.test.images)
    assert_allclose(logits, saved, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"images float64 .*need uint8 \[n, 8, 8, 1\]"):
        network.averaged_logits(folder, np.zeros((1, 8, 8, 1)))


@pytest.mark.slow
def test_unchanged_images_of_a_shift_have_the_coverage_of_the_run(trained, tmp_path):
    _, folder, _ = trained
    copy = shutil.copytree(folder, tmp_path / "run", symlinks=True)
    clean = robustness.evaluate_shifts(copy, ["noise"])["clean"]
    results = results_of(folder)
    assert clean["accuracy"] == results["test"]["accuracy"]
    assert clean["coverage"] == page.read(folder).accepted.mean()
    assert 0 < clean["confidence"] <= 1


@pytest.mark.slow
def test_cost_counts_every_view(trained):
    _, folder, _ = trained
    costs = cost.read_cost(folder)
    assert costs["student"]["views"] == costs["teacher"]["views"] == 2
    size = models.cost.cost(network.restore_network(folder).model, (8, 8, 1))
    assert costs["student"]["multiply_adds"] == 2 * size.multiply_adds


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("flip", 2), ("shift", 10)])
def test_exported_files_average_inside_and_decide_like_the_run(
    trained, with_views, tmp_path, capfd, name, count
):
    dataset, folder = trained[2], with_views(name)
    evaluate.evaluate(folder, dataset)
    model_card = export(folder, tmp_path / "model")
    assert "onnxruntime" not in capfd.readouterr().err  # it would warn of wrong shapes
    assert set(model_card["files"]) == {"model.stablehlo", "model.onnx"}
    for file in model_card["files"].values():
        assert file["largest_difference"] < 1e-4
        assert file["calibration"]["images"] == len(dataset.calibration.labels)
        assert file["calibration"]["different_decisions"] == file["different_decisions"] == 0
    assert (model_card["views"]["name"], model_card["views"]["number"]) == (name, count)
    assert f"| views | {name}, {count}: inside the model" in card_page.render(model_card)
    saved = predictions.load(predictions.path_of(folder, "test")).logits
    prediction = load(tmp_path / "model")(dataset.test.images[:5])
    assert_allclose(prediction.logits, saved[:5], atol=1e-4)
    one = load(tmp_path / "model", batch_size=1)(dataset.test.images[:2])  # any number of images
    assert_allclose(one.logits, saved[:2], atol=1e-4)


@pytest.mark.slow
def test_a_workdir_of_a_version_without_views_is_evaluated_without_them_and_continues(
    trained, with_views
):
    config, folder, dataset = trained
    old = with_views(None)
    assert workdir.read_metadata(old)["config"]["selective"]["views"] == "none"
    results = evaluate.evaluate(old, dataset)
    assert results["views"] == results["teacher"]["views"] == "none"
    logits = predictions.load(predictions.path_of(old, "test")).logits
    plain = evaluate.predict_splits(folder, dataset, ["test"], views="none")["test"].logits
    assert_array_equal(logits, plain)
    # The default of this version, which the same command has, is no other config.
    assert config.selective.views == "flip"
    assert pipeline.finished_results(config, old)[old]["scores"] == results["scores"]
    changed = config.copy_and_resolve_references().unlock()
    changed.selective.views = "shift"
    with pytest.raises(InputError, match=r"selective.views: 'none' -> 'shift'"):
        pipeline.finished_results(changed, old)


def test_unknown_views_are_refused_before_training(data_dir):
    with pytest.raises(InputError, match=r"selective.views 'flips'.*'flip'"):
        tiny(data_dir, **{"selective.views": "flips"})
    assert tiny(data_dir, **{"data.flip": False}).selective.views == "none"
