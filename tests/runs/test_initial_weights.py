"""`student.init`: a student starts with the weights of a workdir or of a file."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from support.runs import tiny

from kdjax import pipeline
from kdjax.errors import InputError
from kdjax.evaluation import certification, evaluate
from kdjax.runs import initial_weights, restore
from kdjax.training import initial
from kdjax.training.initial import InitialWeights

# A training that leaves the weights as they are.
STILL = {
    "objective.method": "gambler",
    "student.learning_rate": 1e-12,
    "student.weight_decay": 0.0,
    "student.epochs": 1,
}


@pytest.fixture
def dataset(finished_run: Any) -> Any:
    return restore.load_dataset(finished_run.folder)


def config(data_dir: pathlib.Path, init: str, **changes: Any) -> Any:
    return tiny(
        data_dir,
        **{"student.model": "alexnet_small", "student.width": 4, "student.init": init, **changes},
    )


def save(path: pathlib.Path, variables: Any, **metadata: str) -> str:
    arrays = {name: np.array(array) for name, array in flatten_dict(variables, sep=".").items()}
    save_file(arrays, path, metadata or None)
    return str(path)


@pytest.mark.slow
def test_workdir_gives_the_trained_weights(finished_run, data_dir, dataset, tmp_path, capsys):
    given = initial_weights.load(config(data_dir, str(finished_run.folder)), dataset)
    assert isinstance(given, InitialWeights) and given.same_classes
    expected = restore.restore(finished_run.folder).variables
    fitted, note = initial.fit(expected, given)
    assert note == "" and capsys.readouterr().out == ""
    jax.tree.map(np.testing.assert_array_equal, fitted, expected)


@pytest.mark.slow
def test_file_without_abstention_output_says_so(finished_run, data_dir, dataset, tmp_path, capsys):
    variables = jax.tree.map(np.array, restore.restore(finished_run.folder).variables)
    head = variables["params"]["head"]["Dense_0"]
    head.update({name: array[..., :-1] for name, array in head.items()})
    path = save(tmp_path / "weights.safetensors", variables)
    given = initial_weights.load(config(data_dir, path), dataset)
    assert capsys.readouterr().out == (
        f"student.init {path}: the abstention output will start at random\n"
    )
    names = {".".join(name) for name in given.head}
    assert names == {"params.head.Dense_0.kernel", "params.head.Dense_0.bias"}


@pytest.mark.slow
def test_file_of_other_classes_keeps_all_but_the_last_layer(
    finished_run, data_dir, dataset, tmp_path, capsys
):
    variables = restore.restore(finished_run.folder).variables
    path = save(tmp_path / "w.safetensors", variables, class_names='["cat", "dog"]')
    initial_weights.load(config(data_dir, path), dataset)
    assert "the last layer, which is of other classes, will start" in (
        capsys.readouterr().out.replace("classes will", "classes, will")
    )


@pytest.mark.slow
def test_weights_of_another_network_are_one_line(finished_run, data_dir, dataset, tmp_path):
    for changes in ({"student.model": "resnet8"}, {"student.width": 5}):
        other = config(data_dir, str(finished_run.folder), **changes)
        with pytest.raises(
            InputError, match=r"student\.init .* does not fit the network"
        ) as raised:
            initial_weights.load(other, dataset)
        assert "\n" not in str(raised.value)


def test_weights_are_read_before_training_unless_there_is_a_checkpoint(data_dir, dataset, tmp_path):
    given = config(data_dir, "is gone"), tmp_path, dataset
    unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    with pytest.raises(InputError, match="'is gone' is neither a workdir nor a file"):
        initial_weights.loader(*given)
    unfinished.rename(tmp_path / "checkpoints" / "4")
    load = initial_weights.loader(*given)
    assert load is not None
    with pytest.raises(InputError, match="'is gone' is neither a workdir nor a file"):
        load()
    assert initial_weights.loader(config(data_dir, ""), tmp_path, dataset) is None


@pytest.mark.slow
def test_students_that_start_again_have_the_given_weights(finished_run, data_dir, tmp_path):
    """After a kill between two saves, one student has a checkpoint and the other one has none."""
    start, students = str(finished_run.folder), {"students": ({"seed": 1}, {"seed": 2})}
    pipeline.train(config(data_dir, start, **STILL, **students), tmp_path / "run")
    first, second = sorted((tmp_path / "run" / "students").iterdir())
    for path in (second / "checkpoints").iterdir():
        path.rename(path.with_name(f"{path.name}.orbax-checkpoint-tmp"))
    pipeline.train(config(data_dir, start, **STILL, **students), tmp_path / "run")
    expected = restore.restore(finished_run.folder).variables["params"]
    for folder in (first, second):
        found = restore.restore(folder).variables["params"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.slow
def test_training_starts_with_the_given_weights(finished_run, data_dir, tmp_path):
    """With a tiny learning rate the weights stay near those given, also in the average."""
    average = {"student.average": "ema", "student.average_start": 0.0}
    changed = config(data_dir, str(finished_run.folder), **STILL, **average)
    pipeline.train(changed, tmp_path / "run")
    given, trained = (
        restore.restore(folder).variables["params"]
        for folder in (finished_run.folder, tmp_path / "run")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained, given)


@pytest.mark.slow
def test_workdir_of_another_split_of_the_same_images_is_refused(finished_run, data_dir):
    """Its training images would choose the checkpoint and the threshold."""
    folder = str(finished_run.folder)
    other = config(data_dir, folder, **{"data.split_seed": 1, "data.dev_fraction": 0.2})
    with pytest.raises(InputError) as raised:
        initial_weights.load(other, restore.load_data(other))
    message = str(raised.value)
    assert message.startswith(f"student.init {folder!r} was trained on another split of the same")
    assert "data.split_seed: 0 -> 1" in message and "data.dev_fraction: " in message


def test_weights_that_may_have_seen_calibration_images_are_named(finished_run, tmp_path):
    folder = finished_run.folder
    metadata = json.loads((folder / "config.json").read_text())
    data, dataset = metadata["config"]["data"], dict(metadata["dataset"])

    def source(init: str, **changes: Any) -> str:
        return initial_weights.unknown_source(init, data | changes, dataset)

    assert source("") == source(str(folder)) == ""
    assert source("weights.safetensors") == "weights.safetensors"
    assert source("is gone") == "is gone"
    assert source(str(folder), split_seed=1) == str(folder)
    metadata["config"]["student"]["init"] = "first.safetensors"
    for version, expected in ((dataset["version"], "first.safetensors"), ("another", "another")):
        metadata["dataset"]["version"] = version
        workdir = tmp_path / version
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(metadata))
        assert source(str(workdir)).endswith(expected)


@pytest.mark.slow
def test_results_of_a_student_that_starts_from_a_file_say_what_is_assumed(
    finished_run, data_dir, tmp_path
):
    path = save(tmp_path / "w.safetensors", restore.restore(finished_run.folder).variables)
    dataset = pipeline.train(config(data_dir, path, **STILL), tmp_path / "run")
    results = evaluate.evaluate(tmp_path / "run", dataset)
    assert results["initial_weights"] == path
    note = certification.seen_images_note(results)
    assert path in note and "valid only if they were not" in note
    assert certification.seen_images_note({}) == ""
