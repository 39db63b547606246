"""Export of the teacher of a run, and the cascade of the two exported models."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from support.runs import tiny

from kdjax import pipeline, selective
from kdjax.errors import InputError
from kdjax.evaluation import evaluate, fallback, predictions, promises
from kdjax.export import card, formats, source_network
from kdjax.export.exporter import export
from kdjax.predict import load, load_cascade
from kdjax.runs import restore, teacher_stage, workdir
from kdjax.runtime import atomic_io

PLAIN = {"data.pad": 0, "data.flip": False, "smoke": False, "selective.risk": 0.6}
EPOCHS = {"teacher.epochs": 6, "student.epochs": 3, "objective.pretrain_epochs": 0, "eval_every": 6}


def config_of(data_dir, **changes):
    return tiny(data_dir, **PLAIN | EPOCHS | {"teacher.width": 8} | changes)


def train(data_dir, folder, **changes):
    dataset = pipeline.train(config_of(data_dir, **changes), folder)
    return evaluate.evaluate(folder, dataset), dataset


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A finished run, its results and its data set."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    return folder, *train(data_dir, folder)


@pytest.fixture(scope="module")
def models(run, tmp_path_factory):
    """A folder with the exported `student` and `teacher` of the run."""
    root = tmp_path_factory.mktemp("models")
    export(run[0], root / "student")
    export(run[0] / "teacher", root / "teacher", coverage=0.8)
    return root


def error_message(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def cascade_of(results):
    return results["promises"]["cascade"]


# The exported teacher


@pytest.mark.slow
@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_files_of_a_teacher_give_its_logits_without_an_abstention_column(run, models, name):
    folder, _, dataset = run
    saved = predictions.load(predictions.path_of(folder / "teacher", "test"))
    content = (models / "teacher" / name).read_bytes()
    outputs = formats.FORMATS[name].run(content)(np.asarray(dataset.test.images))
    assert outputs.logits.shape == saved.logits.shape == (len(saved.labels), 10)
    np.testing.assert_allclose(outputs.logits, saved.logits, atol=1e-4)
    np.testing.assert_array_equal(outputs.label, saved.logits.argmax(axis=1))


@pytest.mark.slow
def test_card_of_a_teacher_says_that_it_does_not_abstain_by_itself(run, models):
    stored = card.read(models / "teacher")
    assert stored["format"] == card.WITHOUT_ABSTENTION
    assert stored["outputs"]["logits"].endswith("a teacher has no abstention output")
    assert stored["name"] == "teacher_tiny_network.py:TinyNetwork"
    assert list(stored["cost"]) == ["machine", "teacher"]
    assert any(note.startswith("This is a teacher") for note in stored["notes"])
    assert "cascade" not in stored["promises"]
    # 80 % of dev, as requested.
    figures = stored["operating_point"]["figures"]["dev"]
    assert figures["coverage"] == pytest.approx(0.8, abs=0.02)


@pytest.mark.slow
def test_prediction_of_a_teacher_has_probabilities_of_all_classes(run, models):
    model, images = load(models / "teacher"), np.asarray(run[2].test.images[:20])
    prediction = model(images)
    expected = np.exp(prediction.logits - np.logaddexp.reduce(prediction.logits, 1)[:, None])
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-5)
    point = card.read(models / "teacher")["score"]
    scores = selective.numpy_scores(point["pnorm"], point["combination"])
    score = scores[point["name"]](selective.append_abstention(prediction.logits))
    np.testing.assert_allclose(prediction.score, score, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_card_of_a_later_format_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "teacher", tmp_path / "teacher")
    changed = json.loads((folder / "card.json").read_text()) | {"format": 3}
    (folder / "card.json").write_text(json.dumps(changed))
    assert "has format 3" in error_message(card.read, folder)


# The certified cascade


@pytest.mark.slow
def test_results_describe_the_teacher_by_weights_and_cost(run, models):
    folder, results, _ = run
    described = cascade_of(results)["fallback"]
    assert described["weights_sha256"] == card.read(models / "teacher")["weights_sha256"]
    assert described["weights_sha256"] != card.read(models / "student")["weights_sha256"]
    costs = json.loads((folder / "cost.json").read_text())
    assert described["multiply_adds"] == costs["teacher"]["multiply_adds"]
    assert described["student_multiply_adds"] == costs["student"]["multiply_adds"]


@pytest.mark.slow
def test_exported_pair_errs_as_the_card_says_at_every_certified_threshold(run, models):
    images, labels = np.asarray(run[2].test.images), np.asarray(run[2].test.labels)
    promised = cascade_of(card.read(models / "student"))
    points = [promised["certificate"]["point"], *promised["rows"]]
    for point in filter(None, points):
        threshold = "none" if point["threshold"] is None else point["threshold"]
        cascade = load_cascade(models / "student", models / "teacher", threshold=threshold)
        prediction = cascade(images)
        assert np.sum(prediction.classes != labels) == point["test"]["errors"]
        passed_on = np.mean(prediction.answered_by == "fallback")
        assert passed_on == pytest.approx(point["test"]["passed_on"])
        assert cascade.rule.promised is not None
        cost = cascade.cost(passed_on)["multiply_adds"]
        assert cost == pytest.approx(point["test"]["multiply_adds"])


@pytest.mark.parametrize("change", ["results", "outputs", "labels"])
def test_export_without_the_outputs_of_the_teacher_has_no_cascade(finished_run, tmp_path, change):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    results = workdir.read_results(folder)
    splits = {
        name: predictions.load(predictions.path_of(folder, name)) for name in predictions.SPLITS
    }
    saved = fallback.saved_extras(folder, results, splits)
    assert saved.fallback == cascade_of(results)["fallback"]
    np.testing.assert_array_equal(saved.teacher["test"].labels, splits["test"].labels)
    if change == "results":  # of an earlier version
        del results["promises"]
    elif change == "outputs":
        predictions.path_of(folder / "teacher", "dev").unlink()
    else:
        splits["dev"] = splits["dev"]._replace(labels=splits["dev"].labels[::-1])
    assert fallback.saved_extras(folder, results, splits) == promises.Extras()


# Other teachers


@pytest.mark.slow
def test_linked_teacher_has_its_outputs_in_the_run_of_the_student(data_dir, run, tmp_path):
    folder = tmp_path / "linked"
    results, _ = train(data_dir, folder, **{"teacher.workdir": str(run[0]), "seed": 1})
    assert (folder / "teacher").is_symlink()
    names = {path.name for path in (folder / "predictions").iterdir()}
    assert {f"teacher_{split}.npz" for split in predictions.SPLITS} <= names
    exported = export(folder, tmp_path / "student")
    assert cascade_of(exported)["fallback"] == cascade_of(results)["fallback"]
    same = cascade_of(run[1])["fallback"]
    assert cascade_of(exported)["fallback"]["weights_sha256"] == same["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folds", "ensemble"])
def test_teacher_of_several_networks_is_exported_as_one(data_dir, run, tmp_path, kind):
    short = {"teacher.epochs": 2, "student.epochs": 2, "teacher.width": 2}
    changes = {"teacher.folds": 2}
    if kind == "ensemble":
        second = config_of(data_dir, seed=1, **short)
        teacher_stage.train(second, tmp_path / "second", run[2])
        changes = {"teacher.workdir": (str(run[0]), str(tmp_path / "second"))}
    results, _ = train(data_dir, tmp_path / kind, **short | changes)
    exported = export(tmp_path / kind / "teacher", tmp_path / "teacher")
    assert exported["weights_sha256"] == cascade_of(results)["fallback"]["weights_sha256"]
    assert list(exported["files"]) == list(formats.FORMATS)
    described = cascade_of(results)["fallback"]
    assert exported["cost"]["teacher"]["multiply_adds"] == described["multiply_adds"]


def with_source(finished_run, tmp_path, kind):
    """Returns a copy of the run's teacher that says it was given as something else."""
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "teacher")
    metadata = json.loads((folder / "config.json").read_text())
    source = {"kind": kind, "file": f"mine.{kind}", "sha256": "ab"}
    atomic_io.write_json(folder / "config.json", metadata | {"source": source})
    return folder


@pytest.mark.parametrize(
    ("kind", "what"), [("onnx", "the ONNX file 'mine.onnx'"), ("logits", "logits in 'mine.logits'")]
)
def test_teacher_without_a_network_in_jax_is_refused(finished_run, tmp_path, kind, what):
    folder = with_source(finished_run, tmp_path, kind)
    message = error_message(export, folder, tmp_path / "model")
    assert f"is given as {what}: kdjax exports networks in JAX only" in message
    assert not (tmp_path / "model").exists()


def test_given_weights_need_the_data_set(finished_run, tmp_path):
    folder = with_source(finished_run, tmp_path, "weights")
    metadata = workdir.read_metadata(folder)
    message = error_message(source_network.load, folder, metadata, None)
    assert "of kind 'weights': it can only be exported where the data set 'digits' is" in message


def test_cost_of_the_teacher_of_several_students_is_read_from_their_runs(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "teacher")
    metadata, entry = workdir.read_metadata(folder), {"multiply_adds": 4000, "views": 1}
    costs = {
        "a": {"machine": "cpu", "student": entry},
        "b": {"machine": "cpu", "student": entry, "teacher": {**entry, "views": 2}},
        "c": {"machine": "cpu", "student": entry, "teacher": entry},
    }
    assert source_network.read_cost(folder, metadata) is None
    for name, costs_of_run in costs.items():
        (tmp_path / "students" / name).mkdir(parents=True)
        atomic_io.write_json(tmp_path / "students" / name / "cost.json", costs_of_run)
    # Over the views with which the teacher was evaluated.
    expected = {"machine": "cpu", "teacher": entry}
    assert source_network.read_cost(folder, metadata) == expected
    results = workdir.read_results(folder)
    atomic_io.write_json(folder / "results.json", {**results, "views": "flip"})
    views = source_network.read_cost(folder, metadata)["teacher"]["views"]
    assert views == 2


@pytest.mark.slow
def test_students_and_unfinished_teachers_are_refused(finished_run, tmp_path):
    message = error_message(
        source_network.require_exportable, pathlib.Path("runs/many"), {"stage": workdir.STUDENTS}
    )
    assert "holds several students" in message
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "teacher")
    shutil.rmtree(folder / "checkpoints")
    assert "is not finished" in error_message(export, folder, tmp_path / "model")


def test_teacher_in_bfloat16_is_exported_in_float32(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "teacher")
    metadata = workdir.read_metadata(folder)
    metadata["config"]["teacher"]["compute_dtype"] = "bfloat16"
    atomic_io.write_json(folder / "config.json", metadata)
    assert np.dtype(restore.restore(folder).model.network.dtype) == "bfloat16"
    loaded = source_network.load(folder, metadata, restore.load_dataset(finished_run.folder))
    assert np.dtype(loaded.model.network.dtype) == np.float32
