"""A user's network from the how-to page: trained, evaluated, reported, exported and predicted."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.commands import ROOT, assert_refused, command
from support.documents import code_blocks
from support.runs import final_arrays, tiny
from support.user_networks import LINEN, write

import kdjax.config
import kdjax.predict
from kdjax import pipeline
from kdjax.errors import InputError
from kdjax.evaluation import evaluate
from kdjax.export.exporter import export
from kdjax.report import page
from kdjax.runs import restore, teacher_stage

PAGE = (ROOT / "docs" / "how-to" / "own-network.md").read_text()
LINEN_CODE, NNX_CODE, CONFIG_CODE, COST_CODE = code_blocks(PAGE, "python")


def own_config(data_dir: pathlib.Path, model: str, **changes: Any):
    fields = {"student.model": model, "student.width": 0, **changes}
    return tiny(data_dir, **fields)


def stop(*_: object, **__: object) -> None:
    raise AssertionError("the training was started")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "name"), [(LINEN_CODE, "SmallCnn"), (NNX_CODE, "SmallNnx")], ids=["linen", "nnx"]
)
def test_network_of_the_page_goes_from_training_to_prediction(
    data_dir, tmp_path, code, name
) -> None:
    path, folder = write(tmp_path, code), tmp_path / "run"
    config = own_config(data_dir, f"{path}:{name}", **{"objective.method": "gambler"})
    dataset = pipeline.train(config, folder)
    evaluate.evaluate_all([folder], dataset)
    report = page.write(page.read(folder), dataset.test).read_text()
    assert f"{path}:{name}" in report and "Size and speed" in report
    with pytest.warns(UserWarning, match="abstains on every image"):
        card = export(folder, tmp_path / "model", data_dir=str(data_dir))
    assert set(card["files"]) == {"model.stablehlo", "model.onnx"}
    assert card["cost"]["student"]["parameters"] > 0
    # The exported model does not need the file.
    pathlib.Path(path).unlink()
    with pytest.warns(UserWarning, match="abstains on every image"):
        model = kdjax.predict.load(tmp_path / "model")
    saved = np.load(folder / "predictions" / "test.npz")["logits"]
    np.testing.assert_allclose(model(dataset.test.images).logits, saved, atol=1e-4)
    with pytest.raises(InputError, match=r"no file .*nets.py'; config.json in .* names this"):
        restore.restore(folder)


@pytest.fixture(scope="module")
def own_run(
    data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, ConfigDict]:
    """The folder `run` of a finished run, beside its network with dropout, and its config."""
    folder = tmp_path_factory.mktemp("own_network")
    config = own_config(data_dir, f"{write(folder, LINEN)}:Net", **{"objective.method": "ce"})
    pipeline.train(config, folder / "run")
    return folder / "run", config


@pytest.mark.slow
def test_resume_of_a_network_with_dropout_is_bit_identical(own_run, tmp_path) -> None:
    whole, config = own_run
    shutil.copytree(whole, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "8")
    pipeline.train(config, tmp_path / "resumed")
    arrays = [final_arrays(folder) for folder in (whole, tmp_path / "resumed")]
    assert arrays[0][0] == arrays[1][0] == 8
    for one, other in zip(arrays[0][1], arrays[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_class_with_other_parameters_than_the_checkpoint_is_refused(own_run) -> None:
    folder, config = own_run
    restored = restore.restore(folder)
    assert sorted(restored.variables["params"]) == ["BatchNorm_0", "Conv_0", "Dense_0"]
    message = (
        r"checkpoint .* does not fit the network: \S+ is \(.*\) in the checkpoint, and \(.*\) in "
        "the network; its code has changed"
    )
    write(folder.parent, LINEN.replace("features: int = 4", "features: int = 5"))
    try:
        with pytest.raises(InputError, match=message):
            restore.restore(folder)
        with pytest.raises(InputError, match=message):
            pipeline.train(config, folder)
    finally:
        write(folder.parent, LINEN)


def test_config_of_the_page_resolves(tmp_path, monkeypatch) -> None:
    write(tmp_path, LINEN_CODE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(CONFIG_CODE, names)
    config = kdjax.config.resolve(names["get_config"]())
    assert config.student.model == f"{tmp_path / 'nets.py'}:SmallCnn"
    assert json.loads(config.student.model_args) == {"features": 16}
    again = kdjax.config.resolve(config)
    assert again.to_dict() == config.to_dict()


@pytest.mark.slow
def test_cost_of_the_page_is_printed(capsys) -> None:
    exec(COST_CODE, {})
    assert capsys.readouterr().out.startswith("Cost(parameters=11173962, multiply_adds=5554")


@pytest.mark.slow
def test_module_of_the_working_directory_is_found_by_the_command(data_dir, tmp_path) -> None:
    """A fault of the class is one line of the command, before anything is trained."""
    write(tmp_path, LINEN.replace("self.num_outputs)", "self.num_outputs + 1)"))
    flags = (
        f"--config={ROOT / 'configs' / 'digits.py'}",
        "--config.student.model=nets:Net",
        f"--config.data.dir={data_dir}",
        "--workdir=run",
    )
    done = command("main", *flags, cwd=tmp_path)
    assert_refused(done, "model 'nets:Net' returns logits of shape (2, 12)", "must be (2, 11)")
    assert not list((tmp_path / "run").glob("**/checkpoints"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.model": "nets.py:Net"}, "no file '.*nets.py'"),
        ({"student.model": "no.module:Net"}, "no module 'no'"),
        ({"student.model": "resnet9"}, "did you mean 'resnet8'.*package.module:Class"),
        ({"student.model_args": '{"depth": 3}'}, "only a network of your own takes arguments"),
        ({"student.model": "{nets}:Net", "student.model_args": "depth=3"}, "is not JSON"),
        (
            {"student.model": "{nets}:Net", "student.model_args": '{"depth": 1, "depth": 2}'},
            "student.model_args: depth is given twice",
        ),
        ({"student.model": "{nets}:Net", "student.model_args": "[3]"}, "is not a JSON object"),
        (
            {"student.model": "{nets}:Net", "student.model_args": '{"features": "three"}'},
            "argument 'features' is 'three' in model_args, must be int",
        ),
        (
            {"student.model": "{nets}:Net", "student.model_args": '{"feature": 3}'},
            "'feature': did you mean 'features'",
        ),
        ({"student.stem": "big"}, "unknown student.stem 'big'"),
    ],
)
def test_fault_in_the_config_is_one_line_on_resolving(tmp_path, changes, words) -> None:
    nets = write(tmp_path, LINEN, "mynets.py")
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {name: value.replace("{nets}", nets) for name, value in changes.items()}
    )
    with pytest.raises(InputError, match=words) as raised:
        kdjax.config.resolve(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.width": 3}, "takes no width"),
        ({"student.stem": "large"}, "has its own stem"),
        ({"student.init": "nothing"}, "student.init 'nothing' is neither a workdir nor a file"),
        ({"student.init": "nothing.safetensors"}, "no weights at 'nothing.safetensors'"),
    ],
)
def test_fault_of_the_network_is_one_line_before_training(
    data_dir, tmp_path, monkeypatch, changes, words
) -> None:
    for module in (pipeline, teacher_stage):
        monkeypatch.setattr(module, "train_stage", stop)
    model = f"{write(tmp_path, LINEN)}:Net"
    config = own_config(data_dir, model, **changes)
    with pytest.raises(InputError, match=words) as raised:
        pipeline.train(config, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_students_with_networks_of_their_own_have_a_folder_without_slashes(tmp_path) -> None:
    nets = write(tmp_path, LINEN)
    config = kdjax.config.base()
    config.students = (
        {"student.model": f"{nets}:Net", "student.model_args": {"features": 6}},
        {"student.model": f"{nets}:Flat"},
    )
    workdirs = pipeline.student_workdirs(kdjax.config.resolve(config), tmp_path)
    assert [path.parent for path in workdirs] == [tmp_path / "students"] * 2
    first, _ = workdirs.values()
    assert json.loads(first.student.model_args) == {"features": 6}
