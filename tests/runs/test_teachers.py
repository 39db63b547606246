"""Runs with a teacher that they do not train: ONNX, logits, weights, one or several workdirs."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from support.own_teachers import UINT8, class_metadata, fit_linear, predict, write_onnx
from support.runs import final_arrays, stop_at_step, tiny

import kdjax.config
from kdjax import data, pipeline
from kdjax.data.augment import Augmentation
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import certification, evaluate
from kdjax.report import console, page
from kdjax.runs import restore, teachers, workdir
from kdjax.training import host_teacher
from kdjax.training.external import input_fields, logits_file, onnx_teacher, weights_teacher

PLAIN = {"data.pad": 0}  # one augmentation: the logits are cached


@pytest.fixture(scope="module")
def onnx_file(data_dir: pathlib.Path, shared_folder: Callable[..., pathlib.Path]) -> pathlib.Path:
    """A linear teacher of the digits, with its classes in reverse order."""

    def make(folder: pathlib.Path) -> None:
        dataset = data.load("digits", data_dir=data_dir)
        linear = fit_linear(dataset.train).with_order(range(9, -1, -1))
        metadata = class_metadata(dataset.class_names[::-1])
        write_onnx(folder / "linear.onnx", linear, dtype=UINT8, metadata=metadata)

    return shared_folder("own_teacher", make) / "linear.onnx"


@pytest.fixture(scope="module")
def onnx_run(
    data_dir: pathlib.Path, onnx_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A finished run with an ONNX teacher."""
    folder = tmp_path_factory.mktemp("onnx") / "run"
    config = tiny(data_dir, **PLAIN | {"teacher.onnx": str(onnx_file)})
    evaluate.evaluate(folder, pipeline.train(config, folder))
    return folder


def results_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_onnx_teacher_is_evaluated_and_named_in_the_results(onnx_run, data_dir) -> None:
    results = results_of(onnx_run)
    dataset = data.limit_examples(data.load("digits", data_dir=data_dir), 64, 0)
    linear = fit_linear(data.load("digits", data_dir=data_dir).train)
    for split in ("dev", "test"):
        part = getattr(dataset, split)
        correct = linear.logits(np.asarray(part.images)).argmax(axis=1) == part.labels
        assert results["teacher"][split]["accuracy"] == pytest.approx(correct.mean())
    wrong = linear.logits(np.asarray(dataset.train.images)).argmax(axis=1) != dataset.train.labels
    assert results["correction"]["wrong"] == wrong.sum()
    assert results["external_teacher"] == {"kind": "onnx", "file": "linear.onnx"}
    note = certification.seen_images_note(results)
    assert "(ONNX file linear.onnx)" in note and "assumes" in note
    assert (onnx_run / "teacher" / "predictions" / "test.npz").exists()
    assert not (onnx_run / "teacher" / "checkpoints").exists()


@pytest.mark.slow
def test_teacher_of_another_run_has_seen_the_images_unless_it_has_folds(
    finished_run, onnx_run, data_dir, tmp_path
) -> None:
    copy = tmp_path / "folds"
    copy.mkdir()
    stored = json.loads((finished_run.folder / "teacher" / "config.json").read_text())
    stored["config"]["teacher"]["folds"] = 5
    (copy / "config.json").write_text(json.dumps(stored))

    def has_seen(**fields: str | int) -> bool:
        named = {f"teacher.{name}": value for name, value in fields.items()}
        return teachers.has_seen_train(tiny(data_dir, **named))

    assert has_seen() and has_seen(workdir=str(finished_run.folder))
    assert not has_seen(folds=5)
    assert not has_seen(workdir=str(copy))
    assert not has_seen(workdir=str(onnx_run / "teacher"))  # what it has seen is unknown


@pytest.mark.slow
def test_evaluation_needs_no_teacher_file_once_its_logits_are_stored(
    onnx_run, tmp_path, monkeypatch
) -> None:
    copy = shutil.copytree(onnx_run, tmp_path / "run")
    (copy / "results.json").unlink()
    monkeypatch.setattr(onnx_teacher, "OnnxClassifier", None)  # it would be called
    evaluate.evaluate(copy, restore.load_dataset(copy))
    assert results_of(copy) == results_of(onnx_run)


@pytest.mark.slow
def test_run_with_a_teacher_file_resumes_to_the_same_bits(
    onnx_run, onnx_file, data_dir, tmp_path
) -> None:
    copy = shutil.copytree(onnx_run, tmp_path / "run")
    last, expected = final_arrays(copy)
    shutil.rmtree(copy / "checkpoints" / str(last))
    shutil.rmtree(copy / "teacher" / "logits")
    pipeline.train(tiny(data_dir, **PLAIN | {"teacher.onnx": str(onnx_file)}), copy)
    step, arrays = final_arrays(copy)
    assert step == last
    for leaf, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.slow
def test_file_that_changes_is_refused_on_resume(onnx_run, onnx_file, data_dir, tmp_path) -> None:
    copy = shutil.copytree(onnx_run, tmp_path / "run")
    changed = tmp_path / "linear.onnx"
    dataset = data.load("digits", data_dir=data_dir)
    write_onnx(changed, fit_linear(dataset.train), dtype=UINT8)
    metadata = json.loads((copy / "config.json").read_text())
    metadata["config"]["teacher"]["onnx"] = str(changed)  # the same path, with other content
    (copy / "config.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"belongs to another config.*source.sha256"):
        pipeline.train(tiny(data_dir, **PLAIN | {"teacher.onnx": str(changed)}), copy)


def with_teacher(
    onnx_run: pathlib.Path, folder: pathlib.Path, data_dir: pathlib.Path, **changes: Any
) -> tuple[pathlib.Path, data.Dataset]:
    """Returns a copy of a run whose teacher is replaced by another one, and its data set."""
    copy = shutil.copytree(onnx_run, folder, ignore=shutil.ignore_patterns("teacher"))
    dataset = restore.load_dataset(copy)
    teachers.set_up(tiny(data_dir, **PLAIN | changes), copy, dataset)
    return copy, dataset


def write_logits(path: pathlib.Path, data_dir: pathlib.Path, *splits: str) -> pathlib.Path:
    """Writes the logits of the linear teacher on some splits of the digits."""
    dataset = data.load("digits", data_dir=data_dir)
    index = logits_file.index_arrays(dataset, splits)
    np.savez(path, logits=predict(dataset, fit_linear(dataset.train), index), **index)
    return path


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.slow
def test_logits_file_gives_the_results_of_its_model(onnx_run, data_dir, tmp_path, capsys) -> None:
    path = write_logits(tmp_path / "logits.npz", data_dir, *logits_file.SPLITS)
    changes = {"teacher.logits": str(path)}
    copy, dataset = with_teacher(onnx_run, tmp_path / "run", data_dir, **changes)
    assert "of the 64 training images correctly" in capsys.readouterr().out
    results, expected = as_json(evaluate.evaluate(copy, dataset)), results_of(onnx_run)
    assert results["external_teacher"] == {"kind": "logits", "file": "logits.npz"}
    for name in ("dev", "calibration", "test"):
        accuracies = [values["teacher"][name]["accuracy"] for values in (results, expected)]
        assert accuracies[0] == accuracies[1]
    assert results["correction"] == expected["correction"]
    augmentation = Augmentation(pad=0, flip=False)
    views = [
        host_teacher.augmentation_logits(
            teachers.load(run / "teacher", dataset), dataset, augmentation
        )
        for run in (copy, onnx_run)
    ]
    np.testing.assert_allclose(*views, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_logits_of_some_splits_give_the_accuracies_that_can_be_computed(
    onnx_run, data_dir, tmp_path
) -> None:
    path = write_logits(tmp_path / "logits.npz", data_dir, "train", "test")
    changes = {"teacher.logits": str(path)}
    copy, dataset = with_teacher(onnx_run, tmp_path / "run", data_dir, **changes)
    results = evaluate.evaluate(copy, dataset)
    assert results["teacher"].keys() == {"test"}
    assert results["teacher"]["test"]["accuracy"] > 0.8
    assert results["correction"]["examples"] == 64
    console.show(results, "digits")
    page.write(page.read(copy), dataset.test)


class Normalized(nn.Module):
    """A linear classifier of images in 0..1, beside which batch statistics are stored."""

    num_outputs: int
    width: int = 1
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        flat = images.reshape(len(images), -1)
        flat = nn.BatchNorm(use_running_average=not train, epsilon=0.0)(flat)
        return nn.Dense(self.num_outputs)(flat)


@pytest.fixture
def weights_file(data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any) -> pathlib.Path:
    """The linear teacher as a Flax network with weights, classes in reverse order."""
    from kdjax.models import MODELS

    monkeypatch.setitem(MODELS, "normalized", Normalized)
    dataset = data.load("digits", data_dir=data_dir)
    linear = fit_linear(dataset.train).with_order(range(9, -1, -1))
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    variables = {
        "params": {
            "BatchNorm_0": {"scale": ones, "bias": zeros},
            "Dense_0": {"kernel": linear.kernel * 255, "bias": linear.bias},
        },
        "batch_stats": {"BatchNorm_0": {"mean": zeros, "var": ones}},
    }
    path = tmp_path / "teacher.safetensors"
    safetensors.numpy.save_file(
        flatten_dict(variables, sep="."), path, class_metadata(dataset.class_names[::-1])
    )
    return path


@pytest.mark.slow
def test_flax_network_with_weights_is_a_teacher(
    weights_file, onnx_run, data_dir, tmp_path, capsys
) -> None:
    changes = {"teacher.weights": str(weights_file), "teacher.model": "normalized"}
    changes |= {"teacher.input_mean": "0", "teacher.width": 0}
    copy, dataset = with_teacher(onnx_run, tmp_path / "run", data_dir, **changes)
    assert "teacher.weights" in capsys.readouterr().out
    outputs = evaluate.predict_teacher(copy, dataset).splits
    expected = evaluate.predict_teacher(onnx_run, dataset).splits
    for name, split in outputs.items():
        np.testing.assert_allclose(split.logits, expected[name].logits, rtol=1e-3, atol=1e-3)
    assert teachers.external_source(copy / "teacher") == {
        "kind": "weights",
        "file": "teacher.safetensors",
    }


def test_normalization_that_the_weights_need_is_named(weights_file, data_dir, tmp_path) -> None:
    arrays = safetensors.numpy.load_file(weights_file)
    arrays["params.Dense_0.kernel"] /= 255  # the network takes pixels from 0 to 255
    safetensors.numpy.save_file(arrays, weights_file, class_metadata("9876543210"))
    changes = {"teacher.weights": str(weights_file), "teacher.model": "normalized"}
    config = tiny(data_dir, **PLAIN | changes | {"teacher.width": 0})
    fields = r"--config.teacher.input_scale=1 --config.teacher.input_mean=0 "
    message = rf"near chance; with {fields}--config.teacher.input_std=1 9"
    with pytest.raises(InputError, match=message):
        teachers.set_up(config, tmp_path / "run", restore.load_data(config))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"input_scale": 1.0, "input_mean": "0.5", "input_std": "0.5"},
        {"input_mean": "data", "input_std": "0.1"},
        {"input_std": "2"},
        {"input_scale": 255.0, "input_mean": "imagenet"},
    ],
)
def test_fields_that_are_named_give_the_normalization_whatever_was_given(given) -> None:
    train = data.Split(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int32))
    statistics = {"mean": np.float32([0.1, 0.2, 0.3]), "std": np.float32([0.4, 0.5, 0.6])}
    splits = dict.fromkeys(("train", "dev", "calibration", "test"), train)
    dataset = data.Dataset("x", "1", ("a", "b"), **splits, **statistics)

    def normalization(fields: Any) -> Any:
        values = input_fields.normalization(fields, dataset, ((0.0,), (1.0,)))
        return fields.input_scale or 255.0, values

    for changes in weights_teacher._other_normalizations(3):
        fields, expected = (kdjax.config.base().teacher for _ in range(2))
        fields.update(given)
        expected.update(changes)
        flags = weights_teacher._changed_flags(fields, changes)
        for name, value in flags.items():
            field = name.removeprefix("teacher.")
            fields[field] = type(fields[field])(value)
        assert normalization(fields) == normalization(expected)


def test_weights_that_do_not_fit_are_refused(weights_file, data_dir, tmp_path) -> None:
    changes = {"teacher.weights": str(weights_file)}  # the model is alexnet_small
    config, folder = tiny(data_dir, **PLAIN | changes), tmp_path / "run"
    dataset = restore.load_data(config)
    with pytest.raises(InputError, match=r"does not fit the network: .* missing") as error:
        teachers.set_up(config, folder, dataset)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.slow
def test_teacher_given_as_a_file_can_be_used_by_its_workdir(onnx_run, data_dir, tmp_path) -> None:
    for path in (onnx_run, onnx_run / "teacher"):
        changes = {"teacher.workdir": str(path)}
        copy, dataset = with_teacher(onnx_run, tmp_path / path.name, data_dir, **changes)
        assert (copy / "teacher").resolve() == onnx_run / "teacher"
    results = evaluate.evaluate(copy, dataset)
    assert results["external_teacher"]["kind"] == "onnx"
    assert as_json(results["teacher"]) == results_of(onnx_run)["teacher"]


@pytest.fixture
def trained(finished_run: Any, tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """Two workdirs with trained teachers."""
    return [shutil.copytree(finished_run.folder, tmp_path / name) for name in ("one", "two")]


@pytest.mark.slow
def test_ensemble_is_the_mean_of_the_log_probabilities(
    trained, onnx_run, data_dir, tmp_path, capsys
) -> None:
    changes = {"teacher.workdir": tuple(map(str, trained))}
    copy, dataset = with_teacher(onnx_run, tmp_path / "run", data_dir, **changes)
    assert "the mean of the log-probabilities of 2 teachers" in capsys.readouterr().out
    member = evaluate.predict_splits(trained[0] / "teacher", dataset, ["test"])["test"].logits
    outputs = evaluate.predict_teacher(copy, dataset)
    for logits in outputs.members["test"]:
        np.testing.assert_allclose(logits, member, rtol=1e-4, atol=1e-5)
    ensemble = outputs.splits["test"].logits
    expected = np.asarray(jax.nn.log_softmax(member))
    np.testing.assert_allclose(ensemble, expected, rtol=1e-4, atol=1e-5)
    assert teachers.external_source(copy / "teacher") is None
    link = copy / "teacher" / "members" / "1"
    assert link.resolve() == trained[1] / "teacher"
    teachers.set_up(tiny(data_dir, **PLAIN | changes), copy, dataset)  # as a resumed run does


@pytest.mark.slow
def test_ensemble_refuses_changed_or_missing_members(trained, onnx_run, data_dir, tmp_path) -> None:
    changes = {"teacher.workdir": ",".join(map(str, trained))}
    copy, dataset = with_teacher(onnx_run, tmp_path / "run", data_dir, **changes)
    path = copy / "teacher" / "config.json"
    metadata = json.loads(path.read_text())
    metadata["source"]["sha256"][1] = "0" * 64
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="has changed since"):
        teachers.load(copy / "teacher", dataset)
    shutil.rmtree(trained[1])
    with pytest.raises(InputError, match="is gone: restore the teacher"):
        teachers.load(copy / "teacher", dataset)


def test_separators_alone_name_no_workdir(data_dir) -> None:
    config = tiny(data_dir, **PLAIN | {"teacher.workdir": " , "})
    with pytest.raises(InputError, match="' , ' names no workdir: give the path"):
        teachers.workdirs_of(config)


@pytest.mark.slow
def test_bad_ensembles_are_refused(trained, onnx_run, data_dir, tmp_path) -> None:
    cases = {
        f"{trained[0]},{trained[0] / 'teacher'}": "is named twice",
        f"{trained[0]},{tmp_path}": "is not a workdir",
        f"{trained[0]},{onnx_run}": "only networks in JAX can be members",
    }
    dataset = restore.load_dataset(onnx_run)
    for text, message in cases.items():
        config = tiny(data_dir, **PLAIN | {"teacher.workdir": text})
        with pytest.raises(InputError, match=message) as error:
            teachers.set_up(config, tmp_path / "run", dataset)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_classes_of_a_trained_teacher_are_mapped_by_name(trained, data_dir, tmp_path) -> None:
    copy = trained[1] / "teacher"
    dataset = restore.load_dataset(trained[0])
    expected = teachers.load(copy, dataset)
    metadata = json.loads((copy / "config.json").read_text())
    metadata["dataset"]["class_names"].reverse()
    (copy / "config.json").write_text(json.dumps(metadata))
    workdir.check_teacher(copy, dataset, restore.load_config(trained[0]).data)
    reordered = teachers.load(copy, dataset)
    images = np.zeros((2, 8, 8, 1), np.float32)
    logits = [loaded.model.apply(loaded.variables, images, train=False)  # type: ignore[union-attr]
              for loaded in (expected, reordered)]  # fmt: skip
    np.testing.assert_array_equal(logits[0][:, ::-1], logits[1])


@pytest.mark.slow
def test_teacher_given_as_a_file_cannot_be_restored_as_a_network(onnx_run) -> None:
    with pytest.raises(InputError, match="a teacher of kind 'onnx'"):
        restore.restore(onnx_run / "teacher")


@pytest.mark.slow
def test_teacher_left_by_another_method_is_not_that_of_the_student(data_dir, tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 2)
        pipeline.train(tiny(data_dir, **{"objective.method": "kd"}), tmp_path)
    assert (tmp_path / "teacher" / "config.json").exists()
    assert not (tmp_path / "config.json").exists()
    dataset = pipeline.train(tiny(data_dir, **{"objective.method": "ce"}), tmp_path)
    results = evaluate.evaluate(tmp_path, dataset)
    assert not {"teacher", "correction"} & results.keys()
    assert list(json.loads((tmp_path / "cost.json").read_text())) == ["machine", "student"]
