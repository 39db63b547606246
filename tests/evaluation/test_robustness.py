"""Evaluation on shifted inputs and other data sets, with an untrained network."""

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
from support.commands import assert_refused, command
from support.runs import tiny

from kdjax import data
from kdjax.data.shift import SEVERITIES, SHIFTS
from kdjax.errors import InputError
from kdjax.evaluation import certification, evaluate, robustness
from kdjax.runs import restore, workdir
from kdjax.runtime import atomic_io
from kdjax.training import spec, step
from kdjax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def dataset(data_dir: pathlib.Path) -> data.Dataset:
    return restore.load_data(tiny(data_dir))


@pytest.fixture(scope="module")
def evaluated(
    data_dir: pathlib.Path, dataset: data.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], pathlib.Path]:
    """Returns a function: stage -> an evaluated workdir with initial weights."""

    @functools.cache
    def run(name: str) -> pathlib.Path:
        folder, config = tmp_path_factory.mktemp(name), tiny(data_dir)
        metadata = data.dataset_metadata(dataset)
        train_spec = spec.train_spec(config, name, metadata)
        workdir.claim(folder, workdir.run_metadata(config, name, metadata))
        last = train_spec.total_steps
        state = step.init_state(train_spec, dataset.image_shape).replace(step=jnp.int32(last))
        with Checkpoints(folder / "checkpoints", {}) as checkpoints:
            checkpoints.save(last, state, score=0.0, clock=0.0, metrics={})
        evaluate.evaluate(folder, dataset)
        return folder

    return run


@pytest.fixture
def certified(
    evaluated: Callable[[str], pathlib.Path], tmp_path: pathlib.Path
) -> Callable[..., pathlib.Path]:
    """Returns a function that copies a workdir and sets the threshold of its certificate.

    The score is a probability, as of earlier versions, unless another one is given.
    """

    def copy(
        threshold: float | None, name: str = spec.STUDENT, score: str = "softmax_response"
    ) -> pathlib.Path:
        folder = shutil.copytree(evaluated(name), tmp_path / "run")
        results = atomic_io.read_json(folder / "results.json")
        certification.requested_certificate(results["guarantee"])["threshold"] = threshold
        results["scores"].setdefault(score, results["scores"][results["best_score"]])
        results["best_score"] = score
        atomic_io.write_json(folder / "results.json", results)
        return folder

    return copy


def network(folder: pathlib.Path, dataset: data.Dataset) -> Callable[[np.ndarray], Any]:
    """Returns a function: images -> softmax responses and predicted classes, in float64."""
    model, variables = restore.restore(folder)
    forward = jax.jit(lambda images: model.apply(variables, images, train=False))

    def outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = forward(np.float32((images / 255.0 - dataset.mean) / dataset.std))
        classes = np.float64(logits)[:, :10]
        odds = np.exp(classes - classes.max(axis=1, keepdims=True))
        return odds.max(axis=1) / odds.sum(axis=1), classes.argmax(axis=1)

    return outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shifts"), [(spec.STUDENT, [*SHIFTS]), (spec.TEACHER, ["contrast"])]
)
def test_metrics_are_those_of_the_network_on_shifted_images(
    name: str,
    shifts: list[str],
    evaluated: Callable[[str], pathlib.Path],
    certified: Callable[..., pathlib.Path],
    dataset: data.Dataset,
) -> None:
    images, labels = dataset.test.images, dataset.test.labels
    outputs = network(evaluated(name), dataset)
    threshold = float(np.median(outputs(images)[0]))  # between two of the 64 values
    folder = certified(threshold, name)
    result = robustness.evaluate_shifts(folder, shifts)
    assert result == json.loads((folder / "shift.json").read_text())
    assert (result["threshold"], result["threshold_from"]) == (threshold, "certificate")
    assert (result["score"], result["examples"], result["ood"]) == ("softmax_response", 64, {})
    assert list(result["shifts"]) == shifts
    expected = [(result["clean"], images)]
    for shift, rows in result["shifts"].items():
        for severity, row in zip(SEVERITIES, rows, strict=True):
            assert row["severity"] == severity
            shifted = SHIFTS[shift](images, np.arange(64), severity=severity, seed=0)
            expected.append((row, np.asarray(shifted)))
    for row, shifted in expected:
        response, predicted = outputs(shifted)
        wrong, accepted = predicted != labels, response >= threshold
        assert row["coverage"] == accepted.mean()
        assert row["error"] == (wrong[accepted].mean() if accepted.any() else None)
        assert row["accuracy"] == 1 - wrong.mean()
        assert row["confidence"] == pytest.approx(response.mean(), rel=1e-4)
    assert result["clean"]["coverage"] == 0.5


@pytest.mark.slow
def test_other_data_sets_are_converted_and_compared_by_confidence(
    certified: Callable[..., pathlib.Path], dataset: data.Dataset, monkeypatch: Any
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (90, 16, 24, 3), dtype=np.uint8)
    labels = np.arange(90, dtype=np.int32)  # of more classes than the run has
    colour_set = dataclasses.replace(dataset, test=data.Split(images, labels))
    load = data.load
    monkeypatch.setattr(
        data, "load", lambda name, **kw: colour_set if name == "colours" else load(name, **kw)
    )
    folder = certified(0.2)
    ood = robustness.evaluate_shifts(folder, ["ood:colours", "ood:digits"])["ood"]
    grey = [
        np.asarray(PIL.Image.fromarray(image).convert("L").resize((8, 8), PIL.Image.Resampling.BOX))
        for image in images[:64]  # the limit of the config
    ]
    outputs = network(folder, dataset)
    clean, other = (
        outputs(pixels)[0] for pixels in (dataset.test.images, np.stack(grey)[..., None])
    )
    is_clean = [1] * 64 + [0] * 64
    assert ood["colours"] == {
        "examples": 64,
        "accepted": np.mean(other >= 0.2),
        "auroc": pytest.approx(sklearn.metrics.roc_auc_score(is_clean, [*clean, *other])),
        "fitted": "resized from 24x16, proportions changed, converted from RGB",
    }
    same = {"examples": 64, "accepted": np.mean(clean >= 0.2), "auroc": 0.5, "fitted": ""}
    assert ood["digits"] == same


@pytest.mark.slow
@pytest.mark.parametrize(("given", "examples"), [("", 6), ("test", 2)])
def test_own_images_are_all_compared_unless_they_have_a_test_split(
    given: str, examples: int, certified: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    pictures = tmp_path / "pictures"
    for index in range(6):
        split = given if index < 2 else "train" if given else ""
        file = pictures / split / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (9, 7), 40 * index).save(file)
    name = f"ood:folder:{pictures}"
    ood = robustness.evaluate_shifts(certified(0.2), [name])["ood"]
    (result,) = ood.values()
    assert result["examples"] == examples


def test_without_certificate_the_threshold_is_chosen_on_dev(
    certified: Callable[..., pathlib.Path],
) -> None:
    score = "softmax_response_log_odds"
    folder = certified(None, score=score)
    results = atomic_io.read_json(folder / "results.json")
    on_dev = results["scores"][score]["thresholds"]["90"]
    result = robustness.evaluate_shifts(folder, ["contrast"])
    assert result["threshold"] == on_dev["threshold"]
    assert result["threshold_from"] == "dev, 90 % coverage"
    assert result["clean"]["coverage"] == on_dev["test_coverage"]
    assert result["clean"]["error"] == on_dev["test_error"]


def test_error_is_none_where_nothing_is_accepted(
    certified: Callable[..., pathlib.Path],
) -> None:
    result = robustness.evaluate_shifts(certified(1.5), ["contrast"])
    for row in [result["clean"], *result["shifts"]["contrast"]]:
        assert (row["coverage"], row["error"]) == (0.0, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["noise", "blurr"], "unknown shift 'blurr': did you mean 'blur'"),
        (["fashion_mnist"], "unknown shift 'fashion_mnist'; valid: .* ood:NAME"),
        (["ood:"], "shift 'ood:' names no data set: for example ood:fashion_mnist"),
        (["ood:digit"], "unknown data set 'digit': did you mean 'digits'"),
        ([], "no shift given: noise, blur, contrast, rotation or ood:NAME"),
    ],
)
def test_unknown_names_are_rejected_before_a_network_is_restored(
    names: list[str], message: str, evaluated: Callable[[str], pathlib.Path], monkeypatch: Any
) -> None:
    run = evaluated(spec.STUDENT)
    monkeypatch.setattr(restore, "restore", lambda folder: pytest.fail("a network was restored"))
    with pytest.raises(InputError, match=message):
        robustness.evaluate_shifts(run, names)
    assert not (run / "shift.json").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results.json", None, "results.json' is missing: .*kdjax evaluate --workdir="),
        ("results.json", "{", "results.json' is damaged"),
        ("results.json", "{}", "results.json' was not written by this version"),
        ("results.json", "[]", "results.json' was not written by this version"),
        ("config.json", None, "is not a workdir"),
    ],
)
def test_a_workdir_without_valid_results_is_rejected(
    file: str, text: str | None, message: str, certified: Callable[..., pathlib.Path]
) -> None:
    folder = certified(0.2)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        robustness.evaluate_shifts(folder, ["noise"])
    assert not (folder / "shift.json").exists()


def test_a_changed_data_set_is_rejected(certified: Callable[..., pathlib.Path]) -> None:
    folder = certified(0.2)
    metadata = workdir.read_metadata(folder)
    metadata["dataset"]["version"] = "0.9.0"
    atomic_io.write_json(folder / "config.json", metadata)
    with pytest.raises(InputError, match=r"dataset\.version: '0\.9\.0' -> '1\.0\.0'"):
        robustness.evaluate_shifts(folder, ["noise"])


@pytest.mark.slow
def test_command_prints_the_metrics_that_it_writes(
    certified: Callable[..., pathlib.Path], data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = certified(0.2)
    shutil.copytree(data_dir / "digits", tmp_path / "moved" / "digits")
    before = (folder / "results.json").read_bytes()
    flags = f"--workdir={folder}", f"--data_dir={tmp_path / 'moved'}"
    done = command("evaluate", *flags, "--shift=contrast,ood:digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accepted if softmax response >= 0.2" in done.stdout
    rows = atomic_io.read_json(folder / "shift.json")["shifts"]["contrast"]
    lines = [line for line in done.stdout.splitlines() if line.startswith("│ contrast")]
    for row, line in zip(rows, lines, strict=True):
        assert f"{100 * row['coverage']:.2f}" in line and f"{100 * row['accuracy']:.2f}" in line
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--shift=nois"], "unknown shift 'nois': did you mean 'noise'"),
        (["--shift="], "no shift given"),
        (["--shift=noise", "--risk=0.1"], "--shift uses the threshold and gate of results.json"),
    ],
)
def test_command_rejects_invalid_flags_in_one_line(
    flags: list[str], part: str, certified: Callable[..., pathlib.Path]
) -> None:
    folder = certified(0.2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert_refused(command("evaluate", f"--workdir={folder}", *flags), part)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
