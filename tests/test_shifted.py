"""Shifted inputs, judged on an untrained network in a workdir that says it is finished."""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import sklearn.metrics
from commands import assert_refused, command
from test_train import tiny

from kdjax import assess, data, shifted, stage, step, workdir
from kdjax.checkpoint import Checkpoints
from kdjax.data.shift import SEVERITIES, SHIFTS
from kdjax.errors import InputError
from kdjax.report import guarantees


@pytest.fixture(scope="module")
def dataset(data_dir: pathlib.Path) -> data.Dataset:
    return stage.load_data(tiny(data_dir))


@pytest.fixture(scope="module")
def evaluated(
    data_dir: pathlib.Path, dataset: data.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], pathlib.Path]:
    """Stage -> a workdir with the initial weights as its last checkpoint, evaluated."""

    @functools.cache
    def run(name: str) -> pathlib.Path:
        folder, config = tmp_path_factory.mktemp(name), tiny(data_dir)
        about = workdir.describe(dataset)
        recipe = stage.recipe(config, name, about, None)
        workdir.claim(folder, stage.identity(config, name, about))
        last = config[name].epochs * recipe.steps_per_epoch
        state = step.init_state(recipe, dataset.image_shape).replace(step=jnp.int32(last))
        with Checkpoints(folder / "checkpoints", {}) as checkpoints:
            checkpoints.save(last, state, score=0.0, clock=0.0, metrics={})
        assess.assess(folder, dataset)
        return folder

    return run


@pytest.fixture
def certified(
    evaluated: Callable[[str], pathlib.Path], tmp_path: pathlib.Path
) -> Callable[..., pathlib.Path]:
    """Copies a workdir, and certifies a threshold of the softmax response, or none."""

    def copy(threshold: float | None, name: str = stage.STUDENT) -> pathlib.Path:
        folder = shutil.copytree(evaluated(name), tmp_path / "run")
        found = workdir.read_json(folder / "results.json")
        guarantees.operating(found["guarantee"])["threshold"] = threshold
        found["best_score"] = "softmax_response"
        workdir.write_json(folder / "results.json", found)
        return folder

    return copy


def network(folder: pathlib.Path, dataset: data.Dataset) -> Callable[[np.ndarray], Any]:
    """Images -> softmax responses and predicted classes, in float64 from the logits on."""
    model, variables = stage.restore(folder)
    forward = jax.jit(lambda images: model.apply(variables, images, train=False))

    def outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = forward(np.float32((images / 255.0 - dataset.mean) / dataset.std))
        classes = np.float64(logits)[:, :10]
        odds = np.exp(classes - classes.max(axis=1, keepdims=True))
        return odds.max(axis=1) / odds.sum(axis=1), classes.argmax(axis=1)

    return outputs


@pytest.mark.parametrize(
    ("name", "shifts"), [(stage.STUDENT, [*SHIFTS]), (stage.TEACHER, ["contrast"])]
)
def test_every_row_is_what_the_network_makes_of_the_shifted_images(
    name: str,
    shifts: list[str],
    evaluated: Callable[[str], pathlib.Path],
    certified: Callable[..., pathlib.Path],
    dataset: data.Dataset,
) -> None:
    images, labels = dataset.test.images, dataset.test.labels
    outputs = network(evaluated(name), dataset)
    threshold = float(np.median(outputs(images)[0]))  # halfway between two of 64
    folder = certified(threshold, name)
    found = shifted.shifted(folder, shifts)
    assert found == json.loads((folder / "shift.json").read_text())
    assert (found["threshold"], found["threshold_from"]) == (threshold, "certificate")
    assert (found["score"], found["examples"], found["ood"]) == ("softmax_response", 64, {})
    assert list(found["shifts"]) == shifts
    expected = [(found["clean"], images)]
    for shift, rows in found["shifts"].items():
        for severity, row in zip(SEVERITIES, rows, strict=True):
            assert row["severity"] == severity
            copy = SHIFTS[shift](images, np.arange(64), severity=severity, seed=0)
            expected.append((row, np.asarray(copy)))
    for row, copy in expected:
        response, predicted = outputs(copy)
        wrong, accepted = predicted != labels, response >= threshold
        assert row["coverage"] == accepted.mean()
        assert row["error"] == (wrong[accepted].mean() if accepted.any() else None)
        assert row["accuracy"] == 1 - wrong.mean()
        assert row["confidence"] == pytest.approx(response.mean(), rel=1e-4)
    assert found["clean"]["coverage"] == 0.5


def test_other_data_are_fitted_and_told_apart_by_confidence(
    certified: Callable[..., pathlib.Path], dataset: data.Dataset, monkeypatch: Any
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (90, 16, 24, 3), dtype=np.uint8)
    colours = dataclasses.replace(dataset, test=data.Split(images, np.zeros(90, np.int32)))
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda name, **kw: colours if name == "colours" else load(name, **kw)
    )
    folder = certified(0.2)
    found = shifted.shifted(folder, ["ood:colours", "ood:digits"])["ood"]
    grey = [
        np.asarray(PIL.Image.fromarray(image).convert("L").resize((8, 8), PIL.Image.Resampling.BOX))
        for image in images[:64]  # as many as the run's config allows of its own
    ]
    outputs = network(folder, dataset)
    inside, outside = (
        outputs(pixels)[0] for pixels in (dataset.test.images, np.stack(grey)[..., None])
    )
    own = [1] * 64 + [0] * 64
    assert found["colours"] == {
        "examples": 64,
        "accepted": np.mean(outside >= 0.2),
        "auroc": pytest.approx(sklearn.metrics.roc_auc_score(own, [*inside, *outside])),
        "fitted": "resized from 24x16, proportions changed, converted from RGB",
    }
    same = {"examples": 64, "accepted": np.mean(inside >= 0.2), "auroc": 0.5, "fitted": ""}
    assert found["digits"] == same


def test_where_nothing_is_certified_the_threshold_is_that_of_dev(
    certified: Callable[..., pathlib.Path],
) -> None:
    folder = certified(None)
    chosen = workdir.read_json(folder / "results.json")["scores"]["softmax_response"]["thresholds"]
    found = shifted.shifted(folder, ["contrast"])
    assert found["threshold"] == chosen["90"]["threshold"]
    assert found["threshold_from"] == "dev, 90 % coverage"
    assert found["clean"]["coverage"] == chosen["90"]["test_coverage"]
    assert found["clean"]["error"] == chosen["90"]["test_error"]


def test_where_nothing_is_accepted_there_is_no_error(
    certified: Callable[..., pathlib.Path],
) -> None:
    found = shifted.shifted(certified(1.5), ["contrast"])
    for row in [found["clean"], *found["shifts"]["contrast"]]:
        assert (row["coverage"], row["error"]) == (0.0, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["noise", "blurr"], "unknown shift 'blurr': did you mean 'blur'"),
        (["fashion_mnist"], "unknown shift 'fashion_mnist': .* ood:NAME"),
        (["ood:"], "shift 'ood:' names no data set: for example ood:fashion_mnist"),
        (["ood:digit"], "unknown data set 'digit': did you mean 'digits'"),
        ([], "no shift named: noise, blur, contrast, rotation or ood:NAME"),
    ],
)
def test_a_name_that_means_nothing_is_refused_before_anything_is_run(
    names: list[str], message: str, evaluated: Callable[[str], pathlib.Path], monkeypatch: Any
) -> None:
    run = evaluated(stage.STUDENT)
    monkeypatch.setattr(stage, "restore", lambda folder: pytest.fail("a network was loaded"))
    with pytest.raises(InputError, match=message):
        shifted.shifted(run, names)
    assert not (run / "shift.json").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.json", None, "results.json' is missing: python -m kdjax.evaluate --workdir="),
        ("results.json", "{", "results.json' is damaged"),
        ("results.json", "{}", "results.json' is no run's of this version"),
        ("results.json", "[]", "results.json' is no run's of this version"),
        ("config.json", None, "is not a workdir"),
    ],
)
def test_a_folder_that_was_not_evaluated_is_refused(
    file: str, text: str | None, message: str, certified: Callable[..., pathlib.Path]
) -> None:
    folder = certified(0.2)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        shifted.shifted(folder, ["noise"])
    assert not (folder / "shift.json").exists()


def test_a_data_set_that_has_changed_is_refused(certified: Callable[..., pathlib.Path]) -> None:
    folder = certified(0.2)
    found = workdir.read(folder)
    found["dataset"]["version"] = "0.9.0"
    workdir.write_json(folder / "config.json", found)
    with pytest.raises(InputError, match=r"dataset\.version: '0\.9\.0' -> '1\.0\.0'"):
        shifted.shifted(folder, ["noise"])


def test_the_command_prints_what_it_writes(
    certified: Callable[..., pathlib.Path], data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = certified(0.2)
    shutil.copytree(data_dir / "digits", tmp_path / "moved" / "digits")
    before = (folder / "results.json").read_bytes()
    flags = f"--workdir={folder}", f"--data_dir={tmp_path / 'moved'}"
    done = command("evaluate", *flags, "--shift=contrast,ood:digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accepted where softmax_response >= 0.2" in done.stdout
    rows = workdir.read_json(folder / "shift.json")["shifts"]["contrast"]
    shown = [line for line in done.stdout.splitlines() if line.startswith("│ contrast")]
    for row, line in zip(rows, shown, strict=True):
        assert f"{100 * row['coverage']:.2f}" in line and f"{100 * row['accuracy']:.2f}" in line
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--shift=nois"], "unknown shift 'nois': did you mean 'noise'"),
        (["--shift="], "no shift named"),
        (["--shift=noise", "--risk=0.1"], "--shift keeps the threshold of results.json"),
    ],
)
def test_the_command_refuses_in_one_line(
    flags: list[str], part: str, certified: Callable[..., pathlib.Path]
) -> None:
    folder = certified(0.2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert_refused(command("evaluate", f"--workdir={folder}", *flags), part)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
