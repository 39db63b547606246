"""The baselines of the comparison: the exported split, its augmentation, and what is judged.

The training scripts are tested in `test_baselines_torch.py` and `test_baselines_keras.py`.
"""

import ast
import json
import pathlib
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FinishedRun
from support import baselines as support
from support.commands import ROOT

from experiments.paper import __main__ as paper
from experiments.paper import collect, result_files, table
from experiments.paper.baselines import export_split, exported, judge
from kdjax import data, selective
from kdjax.data.augment import Augmentation, apply_augmentation
from kdjax.errors import InputError
from kdjax.evaluation import network
from kdjax.training import optimizer

TORCH = "experiments/paper/baselines/deep_gamblers_torch.py"
KERAS = "experiments/paper/baselines/keras_distillation.py"


def imported(path: str) -> set[str]:
    """Returns the modules that a file and those of `experiments` that it imports import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for module in list(found):
        file = module.replace(".", "/") + ".py"
        if module.startswith("experiments") and (ROOT / file).exists():
            found |= imported(file)
    return found


@pytest.mark.parametrize(
    ("path", "needed", "others"),
    [(TORCH, "torch", {"kdjax", "jax", "keras"}), (KERAS, "keras", {"kdjax", "torch", "flax"})],
)
def test_training_script_runs_without_this_package(
    path: str, needed: str, others: set[str]
) -> None:
    top = {name.partition(".")[0] for name in imported(path)}
    assert needed in top and not top & others


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_numbers_of_augmentations_mean_what_they_mean_in_our_training(flip: bool) -> None:
    rng = np.random.default_rng(0)
    augmentation = Augmentation(pad=2, flip=flip)
    numbers = np.arange(25 * (1 + flip))
    images = rng.integers(256, size=(len(numbers), 8, 6, 1), dtype=np.uint8)
    expected = apply_augmentation(
        jnp.asarray(images), jnp.asarray(numbers), augmentation=augmentation
    )
    settings = exported.change(support.SETTINGS, pad=2, flip=flip)
    found = [
        support.crop(image, number, settings) for image, number in zip(images, numbers, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_learning_rates_of_the_job_are_those_of_our_students(warmup: float) -> None:
    settings = exported.change(support.SETTINGS, epochs=6, warmup_epochs=warmup)
    options = optimizer.ScheduleOptions(settings.learning_rate, 6, warmup, 25, 0.5)
    schedule = optimizer.learning_rate_schedule("cosine", options, steps_per_epoch=4)
    expected = [schedule(step) for step in range(24)]
    found = exported.learning_rates(settings, exported.COSINE, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_public_schedule_halves_every_25_of_300_epochs() -> None:
    settings = exported.change(support.SETTINGS, epochs=300, learning_rate=0.1)
    found = exported.learning_rates(settings, exported.HALVING, 3)
    expected = [0.1 * 0.5 ** (step // 3 // 25) for step in range(900)]
    np.testing.assert_allclose(found, expected)


def test_epochs_see_the_fixed_views_in_turn_or_random_augmentations() -> None:
    rng = np.random.default_rng(0)
    split = support.split(rng)
    for epoch in range(4):
        found = exported.epoch_numbers(split, epoch, rng)
        np.testing.assert_array_equal(found, split.views[epoch % support.VIEWS])
    drawn = np.concatenate(
        [
            exported.epoch_numbers(
                exported.Exported(**{**vars(split), "views": split.views[:0]}), epoch, rng
            )
            for epoch in range(60)
        ]
    )
    assert set(drawn) == set(range(18))  # 9 crops, mirrored or not


def test_best_weights_on_dev_are_kept_and_the_last_ones_without_evaluations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = np.array([0, 1])
    right, wrong = np.eye(2), 1 - np.eye(2)
    best = exported.BestOnDev(labels, 2, 5)
    assert list(best.ends()) == [2, 4, 5]
    for epoch, logits in zip(best.ends(), (wrong, right, wrong), strict=True):
        best.update(epoch, logits, lambda epoch=epoch: f"weights {epoch}")
    assert (best.weights, best.accuracy) == ("weights 4", 1.0)
    assert "epoch 4/5  dev_accuracy 1.0000" in capsys.readouterr().out
    assert list(exported.BestOnDev(labels, 0, 5).ends()) == [5]
    # Weights of the pre-training have not learnt to abstain.
    assert list(exported.BestOnDev(labels, 1, 5, pretrain_epochs=2).ends()) == [3, 4, 5]
    assert list(exported.BestOnDev(labels, 2, 5, pretrain_epochs=5).ends()) == [2, 4, 5]
    with pytest.raises(SystemExit, match="epoch 5: training diverged; lower --learning-rate"):
        best.update(5, np.full((2, 2), np.nan), str)
    exported.end_epoch(3, 5, 0.25)
    assert capsys.readouterr().out.endswith("epoch 3/5  loss 0.2500\n")
    with pytest.raises(SystemExit, match="epoch 4: training diverged; lower --learning-rate"):
        exported.end_epoch(4, 5, float("inf"))


def test_wrong_file_or_setting_is_one_line(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(SystemExit, match="is no file of export_split"):
        exported.load(tmp_path / "other.npz")
    with pytest.raises(SystemExit, match="error: epochs is -1: must be above 0"):
        exported.change(support.SETTINGS, epochs=-1)
    split = support.split(np.random.default_rng(0))
    assert exported.steps_per_epoch(split, exported.change(split.settings, batch_size=5)) == 2
    with pytest.raises(SystemExit, match="error: batch_size 13: there are 12 training images"):
        exported.steps_per_epoch(split, exported.change(split.settings, batch_size=13))


@pytest.mark.slow
def test_exported_split_has_the_images_and_the_teacher_of_the_job(
    tmp_path: pathlib.Path, finished_run: FinishedRun, data_dir: pathlib.Path
) -> None:
    teacher, file = tmp_path / "teacher", tmp_path / "split.npz"
    shutil.copytree(finished_run.folder / "teacher", teacher)  # its logits are stored there
    export_split.main(
        [
            "cifar10-structure-in_sample-seed3",
            f"--file={file}",
            f"--teacher={teacher}",
            "--budget=smoke",
            *("--set", "data.name=digits", f"data.dir={data_dir}", "teacher.views=2"),
            "data.pad=1",
        ]
    )
    split = exported.load(file)
    settings = split.settings
    assert settings.job["seed"] == settings.seed == 3 and settings.pad == 1
    images = split.images[exported.TRAIN]
    assert split.teacher is not None and split.teacher.shape == (2, len(images), split.classes)
    whole = data.load("digits", data_dir=data_dir)
    np.testing.assert_allclose(settings.mean, whole.mean)
    np.testing.assert_allclose(settings.std, whole.std)
    for numbers, logits in zip(split.views, split.teacher, strict=True):
        seen = [
            support.crop(image, number, settings)
            for image, number in zip(images, numbers, strict=True)
        ]
        expected = network.averaged_logits(teacher, np.stack(seen))
        np.testing.assert_allclose(logits, expected[:, : split.classes], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "unknown job 'cifar10'"),
        (
            ["svhn-depth-in_sample-seed0", "--set", "student.width=8"],
            "student.width 8: baselines can be trained with 0 only",
        ),
    ],
)
def test_wrong_export_is_one_line(
    arguments: list[str], message: str, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fields = ["data.name=digits", f"data.dir={data_dir}"]
    arguments = [*arguments, *fields] if "--set" in arguments else [*arguments, "--set", *fields]
    with pytest.raises(SystemExit, match=message):
        export_split.main([*arguments, f"--file={tmp_path / 'split.npz'}"])


@pytest.fixture
def logits(tmp_path: pathlib.Path) -> dict[str, np.ndarray]:
    """Logits of 60 images for each split, of which dev and test are easy to rank."""
    rng = np.random.default_rng(1)
    arrays = {}
    for name in exported.EVALUATED:
        labels = rng.integers(support.CLASSES, size=60)
        arrays[f"{name}_labels"] = labels
        for key in (name, f"{name}_mirrored"):
            arrays[key] = rng.normal(size=(60, support.CLASSES + 1)).astype(np.float32)
            arrays[key][np.arange(60), labels] += rng.normal(2, 2, size=60)
    return arrays


def save(path: pathlib.Path, arrays: dict[str, np.ndarray], **changes: Any) -> pathlib.Path:
    np.savez(path, **arrays)
    path.with_suffix(".json").write_text(json.dumps(support.BASELINE | changes))
    return path


@pytest.mark.slow
def test_baseline_is_judged_as_our_networks_are(
    tmp_path: pathlib.Path, logits: dict[str, np.ndarray]
) -> None:
    path = judge.write(save(tmp_path / "torch.npz", logits), tmp_path / "out", None)
    assert path.name == "cifar10-structure-in_sample-seed0-gambler_pytorch.json"
    (group,) = result_files.read(path.parent)
    by_views = {"none": logits["test"], "flip": (logits["test"] + logits["test_mirrored"]) / 2}
    for views, expected in by_views.items():
        correct = expected[:, :-1].argmax(1) == logits["test_labels"]
        odds = np.logaddexp.reduce(expected[:, :-1].astype(np.float64), axis=1) - expected[:, -1]
        row = table.Row("gambler (PyTorch)", "", views, collect.RESERVATION)
        found = group.values(row, "test")
        assert found[table.ACCURACY] == pytest.approx([100 * correct.mean()])
        assert found[table.AURC] == pytest.approx([1000 * selective.aurc(odds, correct)])


def test_score_of_a_baseline_is_chosen_on_dev(
    tmp_path: pathlib.Path, logits: dict[str, np.ndarray]
) -> None:
    path = judge.write(save(tmp_path / "torch.npz", logits), tmp_path / "out", None)
    students = json.loads(path.read_text())["students"]["gambler (PyTorch)"]
    for results in students.values():
        by_dev = {name: values["dev_aurc"] for name, values in results["scores"].items()}
        assert results["best_score"] == min(by_dev, key=lambda name: by_dev[name])


def test_network_with_an_output_for_each_class_only_has_no_reservation(
    tmp_path: pathlib.Path, logits: dict[str, np.ndarray]
) -> None:
    names = [name + end for name in exported.EVALUATED for end in ("", "_mirrored")]
    arrays = logits | {name: logits[name][:, :-1] for name in names}
    changes = {"name": "kd (keras.distillation)", "abstains": False, "needs_teacher": True}
    without = judge.write(save(tmp_path / "a.npz", arrays, **changes), tmp_path / "a", None)
    # A column of abstention that was not trained is ignored.
    untrained = judge.write(save(tmp_path / "b.npz", logits, **changes), tmp_path / "b", None)
    (group,), (other,) = (result_files.read(path.parent) for path in (without, untrained))
    assert {row.score for row in group.rows} == {collect.CHOSEN}
    assert {row.teacher for row in group.rows} == {"in_sample"}
    for row in group.rows:
        assert group.values(row, "test") == other.values(row, "test")


def test_command_writes_the_files_that_the_tables_read(
    tmp_path: pathlib.Path, logits: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = save(tmp_path / "torch.npz", logits), f"--out={tmp_path / 'out'}"
    split = tmp_path / "split.npz"
    np.savez(split, **{name: logits[name] for name in logits if name.endswith("_labels")})
    paper.main(["baselines", str(file), f"--split={split}", out])
    assert "gambler_pytorch.json" in capsys.readouterr().out
    paper.main(["table", out])
    page = capsys.readouterr().out
    assert "| gambler (PyTorch) | - |" in page and support.BASELINE["command"] in page


def wrong_files(folder: pathlib.Path, logits: dict[str, np.ndarray]) -> dict[str, pathlib.Path]:
    nan = {"test": np.full_like(logits["test"], np.nan)}
    alone = folder / "alone.npz"
    np.savez(alone, **logits)
    return {
        "logits are not finite": save(folder / "nan.npz", logits | nan),
        r"logits \[60, 3\] for 60 labels of 3 classes": save(
            folder / "columns.npz", logits | {"dev": logits["dev"][:, :-1]}
        ),
        "must be an .npz file with a .json file": alone,
        "name 'a/b'": save(folder / "name.npz", logits, name="a/b"),
    }


def test_wrong_logits_are_refused(tmp_path: pathlib.Path, logits: dict[str, np.ndarray]) -> None:
    for message, file in wrong_files(tmp_path, logits).items():
        with pytest.raises(InputError, match=message):
            judge.write(file, tmp_path, None)
    split = tmp_path / "split.npz"
    labels = {name: logits[name] for name in logits if name.endswith("_labels")}
    np.savez(split, **{**labels, "test_labels": (labels["test_labels"] + 1) % 3})
    with pytest.raises(InputError, match=r"labels of test in .* are not those of"):
        judge.write(save(tmp_path / "good.npz", logits), tmp_path, split)
