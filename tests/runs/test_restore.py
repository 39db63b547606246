"""Loading a trained network from a workdir, also from one of an earlier version."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from support.commands import command, python
from support.runs import checkpoint, final_arrays, tiny

import kdjax
from kdjax import data, models, pipeline
from kdjax.config_fields import RENAMED_FIELDS
from kdjax.errors import InputError
from kdjax.models import apply
from kdjax.runs import restore, workdir
from kdjax.training import spec, step


@pytest.fixture
def run(finished_run) -> pathlib.Path:
    """A finished run whose student was pre-trained for the first of its two epochs."""
    return finished_run.folder


def run_config(data_dir: pathlib.Path, **changes: Any) -> ConfigDict:
    """The config of that run, with changes."""
    fields = {f"{stage}.width": 4 for stage in ("teacher", "student")}
    return tiny(data_dir, **{**fields, "student.model": "", **changes})  # as in the command


def assert_equal_variables(actual, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_restore_returns_the_weights_of_the_best_checkpoint(run) -> None:
    restored, best = restore.restore(run), checkpoint(run, "best")
    assert best.step == 8
    assert_equal_variables(restored.variables, step.eval_variables(best.state))
    logits = restored.model.apply(restored.variables, np.zeros((2, 8, 8, 1), "float32"), False)
    assert logits.shape == (2, 11)


@pytest.mark.slow
def test_restore_takes_a_string_and_is_a_name_of_the_package(run) -> None:
    expected = restore.restore(run).variables
    assert_equal_variables(restore.restore(str(run)).variables, expected)
    assert_equal_variables(kdjax.restore(str(run)).variables, expected)
    assert kdjax.restore is restore.restore


@pytest.mark.slow
def test_restore_in_a_new_process_with_a_relative_path(run) -> None:
    code = (
        "import kdjax; model, variables = kdjax.restore('digits'); "
        "print(kdjax.selective.SCORES.keys() >= {'reservation'}, sorted(variables))"
    )
    done = python("-c", code, cwd=run.parent)
    assert (done.returncode, done.stdout) == (0, "True ['batch_stats', 'params']\n"), done.stderr


def test_unfinished_training_cannot_be_restored(run, tmp_path) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"not finished \(step 0 of 8\)"):
        restore.restore(tmp_path)


def test_folder_without_config_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="is not a workdir"):
        restore.restore(str(tmp_path))


# Workdirs of earlier versions


def use_old_field_names(folder: pathlib.Path) -> None:
    """Rewrites config.json with the field names of earlier versions."""
    old_names = {new: old for old, new in RENAMED_FIELDS.items()}
    metadata = json.loads((folder / "config.json").read_text())
    fields = flatten_dict(metadata["config"], keep_empty_nodes=True, sep=".")
    renamed = {old_names.get(name, name): value for name, value in fields.items()}
    assert renamed.keys() != fields.keys()
    metadata["config"] = unflatten_dict(renamed, sep=".")
    (folder / "config.json").write_text(json.dumps(metadata, indent=2) + "\n")


def use_sentinel_scores(folder: pathlib.Path) -> None:
    """Gives unscored checkpoints the scores that earlier versions wrote instead of none."""
    for path in folder.glob("checkpoints/*/metrics/metrics"):
        metrics = json.loads(path.read_text())
        if "score" not in metrics:
            metrics["score"] = metrics["accuracy"] - 1e6 if "accuracy" in metrics else -1e12
            path.write_text(json.dumps(metrics))
            (path.parents[1] / "kdjax_crc32.json").unlink()  # the checksums no longer fit


def remove_fields(folder: pathlib.Path) -> None:
    """Removes fields from config.json that an earlier version did not have."""
    metadata = json.loads((folder / "config.json").read_text())
    fields = metadata["config"]
    del fields["order_seed"], fields["best_metric"], fields[metadata["stage"]]["step_factor"]
    del metadata["dataset"]["std"]
    if metadata["stage"] == "student":
        del fields["students"], fields["teacher"]["cache"], fields["objective"]["epsilon"]
    (folder / "config.json").write_text(json.dumps(metadata, indent=2) + "\n")


@pytest.fixture
def old_run(run, tmp_path) -> pathlib.Path:
    """A copy of the run with everything as an earlier version wrote it."""
    folder = shutil.copytree(run, tmp_path / "old")
    for path in (folder, folder / "teacher"):
        use_old_field_names(path)
        remove_fields(path)
        use_sentinel_scores(path)
    return folder


def test_old_field_names_are_those_of_earlier_versions(old_run) -> None:
    student, teacher = (
        json.loads((path / "config.json").read_text())["config"]
        for path in (old_run, old_run / "teacher")
    )
    assert student["objective"]["lambda"] == 1.0 and student["tuned"] is True
    assert "students" not in student and "step_factor" not in teacher["teacher"]
    assert student["student"]["norm_batches"] == teacher["teacher"]["norm_batches"] == 2


@pytest.mark.slow
def test_workdir_of_an_earlier_version_restores_the_same_network(run, old_run) -> None:
    for name in ("", "teacher"):
        expected, actual = restore.restore(run / name), restore.restore(old_run / name)
        assert actual.model == expected.model
        assert_equal_variables(actual.variables, expected.variables)
    assert restore.load_config(old_run) == restore.load_config(run)


def test_workdir_of_an_earlier_version_is_the_same_run(old_run, data_dir) -> None:
    config = run_config(data_dir)
    assert list(pipeline.finished_results(config, old_run)) == [old_run]
    metadata = {"stage": "student", "config": config.to_dict()}
    workdir.check_same_run(old_run, metadata)
    with pytest.raises(InputError, match=r"objective.distill_weight: 1.0 -> 2.0"):
        config = run_config(data_dir, **{"objective.distill_weight": 2.0})
        workdir.check_same_run(old_run, {"stage": "student", "config": config.to_dict()})


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("order_seed", 7, "order_seed: 0 -> 7"),
        ("student.step_factor", 0.25, "student.step_factor: 0.5 -> 0.25"),
        ("objective.epsilon", 0.2, "objective.epsilon: 0.1 -> 0.2"),
    ],
)
def test_field_that_an_earlier_version_lacked_must_have_its_default(
    old_run, data_dir, field, value, line
) -> None:
    config = run_config(data_dir, **{field: value})
    with pytest.raises(InputError, match=f"its fields and yours: {line}. Choose"):
        pipeline.finished_results(config, old_run)


def test_teacher_of_an_earlier_version_is_accepted(run, old_run, data_dir) -> None:
    config, dataset = run_config(data_dir), restore.load_dataset(old_run / "teacher")
    workdir.check_teacher(old_run / "teacher", dataset, config.data)
    metadata = workdir.run_metadata(config, "teacher", data.dataset_metadata(dataset))
    before = (old_run / "teacher" / "config.json").read_bytes()
    workdir.claim(old_run / "teacher", metadata)
    assert (old_run / "teacher" / "config.json").read_bytes() == before
    with pytest.raises(InputError, match=r"data.split_seed: 0 -> 1"):
        workdir.check_teacher(old_run / "teacher", dataset, {**config.data, "split_seed": 1})


@pytest.mark.slow
def test_workdir_of_an_earlier_version_is_evaluated_alike(run, old_run) -> None:
    (old_run / "results.json").unlink()
    # By a command, as the run was: with another number of devices, batches are split otherwise, and
    # some processors round differently.
    done = command("evaluate", f"--workdir={old_run}")
    assert done.returncode == 0, done.stderr
    for name in ("results.json", "predictions/test.npz", "teacher/results.json"):
        assert (old_run / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.slow
def test_interrupted_run_of_an_earlier_version_resumes_to_the_same_bits(
    run, old_run, finished_run
) -> None:
    # As if the run had been killed in its second epoch.
    shutil.rmtree(old_run / "checkpoints" / "8")
    shutil.rmtree(old_run / "predictions")
    (old_run / "results.json").unlink()
    (metrics,) = old_run.glob("checkpoints/4/metrics/metrics")
    assert json.loads(metrics.read_text())["score"] < -9e5  # an epoch of pre-training
    done = command("main", *finished_run.flags, f"--workdir={old_run}")
    assert done.returncode == 0, done.stderr
    assert "student  epoch 2/2" in done.stdout and "student  epoch 1/2" not in done.stdout
    (steps, expected), (resumed_steps, actual) = final_arrays(run), final_arrays(old_run)
    assert steps == resumed_steps == 8
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)
    assert checkpoint(old_run, "best").step == 8
    for name in ("results.json", "predictions/test.npz"):
        assert (old_run / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.parametrize(("size", "stem"), [(63, "auto"), (64, "small")])
def test_stem_of_an_earlier_version_is_the_small_one(run, tmp_path, size, stem) -> None:
    """It had no other; below 64 pixels that is what `auto` gives."""
    for name in ("", "teacher"):
        metadata = json.loads((run / name / "config.json").read_text())
        for stage in {"teacher", "student"} & metadata["config"].keys():
            del metadata["config"][stage]["stem"]
        metadata["dataset"]["image_shape"] = [size, size, 3]
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(metadata))
        config = restore.load_config(tmp_path / name)
        assert config.teacher.stem == stem
    assert config.student.stem == "auto"  # which a teacher's workdir does not have
    student = restore.load_config(tmp_path)
    network = spec.create_network(student, "student", 10, (size, size, 3))
    expected = models.create("alexnet_small", 11, width=4, stem="small")
    shapes = (apply.abstract_variables(model, (size, size, 3)) for model in (network, expected))
    first, second = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in shapes)
    assert first == second


def test_old_workdir_of_small_images_is_the_same_run(run, old_run) -> None:
    metadata = json.loads((old_run / "config.json").read_text())
    for stage in ("teacher", "student"):
        metadata["config"][stage].pop("stem", None)
        metadata["config"][stage].pop("model_args", None)
    (old_run / "config.json").write_text(json.dumps(metadata))
    config = restore.load_config(run)
    workdir.check_same_run(old_run, {"stage": "student", "config": config.to_dict()})
    config.student.stem = "large"
    with pytest.raises(InputError, match=r"student\.stem: 'auto' -> 'large'"):
        workdir.check_same_run(old_run, {"stage": "student", "config": config.to_dict()})
