"""Runs whose teachers are trained without one fold each."""

import dataclasses
import json
import pathlib
import shutil
import warnings
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from support.runs import final_arrays, stop_at_step, tiny

import kdjax
from kdjax import data, pipeline
from kdjax.data.folds import stratified_folds
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import evaluate, predictions
from kdjax.report import console, page
from kdjax.runs import restore, teacher_stage, teachers, workdir

FOLDS = {"data.pad": 0, "teacher.folds": 2}  # the logits are cached


@pytest.fixture(scope="module")
def alive() -> list[int]:
    """The numbers in all arrays of JAX before the training of each fold of `run`."""
    return []


@pytest.fixture(scope="module")
def run(
    data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, alive: list[int]
) -> pathlib.Path:
    """A finished run with the teachers of two folds."""
    folder, train_stage = tmp_path_factory.mktemp("folds") / "run", teacher_stage.train_stage

    def count(*arguments: Any, **options: Any) -> None:
        alive.append(sum(array.size for array in jax.live_arrays()))
        train_stage(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_stage, "train_stage", count)
        dataset = pipeline.train(tiny(data_dir, **FOLDS), folder)
    evaluate.evaluate(folder, dataset)
    return folder


@pytest.fixture(scope="module")
def dataset(data_dir: pathlib.Path) -> data.Dataset:
    """The data set of `run`."""
    return restore.load_data(tiny(data_dir, **FOLDS))


@pytest.fixture(scope="module")
def assigned(dataset: data.Dataset) -> np.ndarray:
    return stratified_folds(dataset.train.labels, 2, seed=0)


def apply_to(network: restore.RestoredModel, images: np.ndarray, dataset: data.Dataset) -> Any:
    """Returns the logits of images by `model.apply`, normalized here."""
    normalized = (np.float32(images) / 255 - dataset.mean) / dataset.std
    return np.asarray(network.model.apply(network.variables, normalized, train=False))


@pytest.fixture(scope="module")
def member_logits(run: pathlib.Path, dataset: data.Dataset) -> dict[str, np.ndarray]:
    """The logits [K, n, m] of both restored teachers, by split."""
    networks = [kdjax.restore(run / "teacher" / "folds" / str(fold)) for fold in range(2)]
    return {
        split: np.stack(
            [apply_to(each, getattr(dataset, split).images, dataset) for each in networks]
        )
        for split in ("train", "dev", "test")
    }


def results_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def same_arrays(folder: pathlib.Path, other: pathlib.Path) -> bool:
    """Returns whether the last checkpoints of two workdirs are equal bit for bit."""
    (step, leaves), (other_step, other_leaves) = final_arrays(folder), final_arrays(other)
    return step == other_step and all(map(np.array_equal, leaves, other_leaves))


@pytest.mark.slow
def test_each_teacher_is_trained_without_its_fold(run, dataset, assigned, data_dir, tmp_path,
                                                  monkeypatch) -> None:  # fmt: skip
    parts = []
    monkeypatch.setattr(
        teacher_stage, "train_stage", lambda jobs, part, **_: parts.append((jobs[0], part))
    )
    teacher_stage.train(tiny(data_dir, **FOLDS), tmp_path / "teacher", dataset)
    for fold, (job, part) in enumerate(parts):
        seen = assigned != fold
        np.testing.assert_array_equal(part.train.images, dataset.train.images[seen])
        np.testing.assert_array_equal(part.train.labels, dataset.train.labels[seen])
        assert job.folder == tmp_path / "teacher" / "folds" / str(fold)
        np.testing.assert_array_equal(part.mean, dataset.mean)
        metadata = json.loads((run / "teacher" / "folds" / str(fold) / "config.json").read_text())
        assert metadata["fold"] == {"number": fold, "of": 2, "train_examples": seen.sum()}
        assert metadata["config"]["teacher"]["folds"] == 0
    assert len(parts) == 2
    assert workdir.read_metadata(run / "teacher")["config"]["teacher"]["folds"] == 2


@pytest.mark.slow
def test_student_learns_from_the_teacher_that_has_not_seen_the_image(
    run, dataset, assigned, member_logits
) -> None:
    (path,) = (run / "teacher" / "logits").iterdir()
    (logits,) = np.load(path)["logits"]
    expected = member_logits["train"][assigned, np.arange(len(assigned))]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    # The test would notice the other teacher.
    assert np.abs(logits - member_logits["train"][1 - assigned, np.arange(64)]).max() > 0.01
    wrong = int((expected.argmax(axis=1) != dataset.train.labels).sum())
    assert results_of(run)["correction"]["wrong"] == wrong


@pytest.mark.slow
def test_other_splits_get_the_mean_of_the_log_probabilities(run, member_logits) -> None:
    for split in ("dev", "test"):
        logits = predictions.load(predictions.path_of(run / "teacher", split)).logits
        expected = scipy.special.log_softmax(member_logits[split], axis=-1).mean(axis=0)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_results_have_the_errors_on_seen_and_unseen_images(
    run, dataset, assigned, member_logits
) -> None:
    wrong = member_logits["train"].argmax(axis=-1) != dataset.train.labels
    correction = results_of(run)["correction"]
    unseen = [wrong[fold][assigned == fold].mean() for fold in range(2)]
    seen = [wrong[fold][assigned != fold].mean() for fold in range(2)]
    assert correction["folds"] == [
        {"examples": 32, "in_sample_error": seen[fold], "out_of_fold_error": unseen[fold]}
        for fold in range(2)
    ]
    assert correction["in_sample_error"] == pytest.approx(np.mean(seen))
    assert correction["out_of_fold_error"] == correction["wrong"] / 64
    assert correction["adjusted"] == correction["wrong"]  # probability shift


@pytest.mark.slow
def test_results_have_the_disagreement_of_the_teachers(run, dataset, member_logits) -> None:
    measured = results_of(run)["disagreement"]
    assert measured["members"] == 2
    for split in ("dev", "test"):
        probs = scipy.special.softmax(np.float64(member_logits[split]), axis=-1)
        information = scipy.stats.entropy(probs.mean(axis=0), axis=-1)
        information -= scipy.stats.entropy(probs, axis=-1).mean(axis=0)
        assert measured[split]["mean"] == pytest.approx(information.mean(), rel=1e-3)
        student = predictions.load(predictions.path_of(run, split))
        wrong = student.logits[:, :-1].argmax(axis=1) != student.labels
        auroc = scipy.stats.mannwhitneyu(information[wrong], information[~wrong]).statistic
        auroc /= wrong.sum() * (~wrong).sum()
        assert measured[split]["student_auroc"] == pytest.approx(auroc, abs=0.01)


@pytest.mark.slow
def test_console_and_report_show_the_errors_and_the_disagreement(run, dataset, capsys) -> None:
    results = results_of(run)
    console.show(results, "digits")
    printed = " ".join(capsys.readouterr().out.split())
    text = page.write(page.read(run), dataset.test).read_text()
    correction, mean = results["correction"], results["disagreement"]["test"]["mean"]
    for sentence in (
        f"Out of fold, {correction['wrong']} of 64 ({100 * correction['wrong'] / 64:.2f} %) of the",
        f"a teacher errs on {100 * correction['in_sample_error']:.2f} %.",
        f"The adjustment changes the teacher's distribution on {correction['adjusted']} of 64",
        "Disagreement of the 2 teachers (mutual information, in nats): ",
        f"{mean:.4f} on test",
    ):
        assert sentence in printed
        assert sentence.replace("'", "&#39;") in text
    assert "Errors of the teachers of the folds" in text
    assert "Training of the teacher without fold 0." in text
    assert "tiny_network.py:TinyNetwork (2 folds)" in text


@pytest.mark.slow
def test_folder_of_the_teachers_is_restored_as_their_ensemble(run, dataset, member_logits) -> None:
    expected = scipy.special.log_softmax(member_logits["test"], axis=-1).mean(axis=0)
    logits = apply_to(kdjax.restore(run / "teacher"), dataset.test.images, dataset)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_folders_of_teachers_can_be_evaluated(run, tmp_path) -> None:
    copy = shutil.copytree(run / "teacher", tmp_path / "teacher")
    again = evaluate.evaluate(copy, restore.load_dataset(copy))
    assert again["test"]["accuracy"] == results_of(run)["teacher"]["test"]["accuracy"]
    one = copy / "folds" / "1"
    results = evaluate.evaluate(one, restore.load_dataset(one))
    assert results["test"]["examples"] == 64


@pytest.mark.slow
def test_run_with_another_number_of_folds_is_refused(run, data_dir) -> None:
    with pytest.raises(InputError, match=r"teacher.folds: 2 -> 0. Choose another --workdir"):
        pipeline.train(tiny(data_dir, **FOLDS | {"teacher.folds": 0}), run)


@pytest.mark.slow
def test_run_that_is_stopped_in_and_between_folds_ends_with_the_same_bits(
    run, data_dir, tmp_path
) -> None:
    config, folder = tiny(data_dir, **FOLDS), tmp_path / "run"
    teacher = folder / "teacher"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 1)  # in the first fold
        pipeline.train(config, folder)
    with pytest.raises(InputError, match=r"not finished \(1 of 2 folds\)"):
        kdjax.restore(teacher)
    train_stage, calls = teacher_stage.train_stage, []

    def stop_after_one(*arguments: Any, **options: Any) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(train_stage(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(teacher_stage, "train_stage", stop_after_one)  # between the folds
        pipeline.train(config, folder)
    first = (teacher / "folds" / "0" / "metrics.jsonl").read_text()
    pipeline.train(config, folder)
    assert (teacher / "folds" / "0" / "metrics.jsonl").read_text() == first  # not trained again
    for name in ("teacher/folds/0", "teacher/folds/1", "."):
        assert same_arrays(folder / name, run / name), name


@pytest.mark.slow
def test_later_run_uses_the_teachers_of_the_folds(run, dataset, data_dir, tmp_path) -> None:
    for path in (run, run / "teacher"):
        (tmp_path / path.name).mkdir()
        config = tiny(data_dir, **{"data.pad": 0, "teacher.workdir": str(path)})
        teacher_folder = teachers.set_up(config, tmp_path / path.name, dataset)
        assert teacher_folder.resolve() == (run / "teacher").resolve()
    loaded, expected = (
        teachers.load(folder, dataset) for folder in (teacher_folder, run / "teacher")
    )
    for leaves in zip(*map(jax.tree.leaves, (loaded.variables, expected.variables)), strict=True):
        np.testing.assert_array_equal(*leaves)


@pytest.mark.slow
def test_teachers_of_folds_need_the_same_training_images(run, dataset, data_dir, tmp_path) -> None:
    fewer = data.limit_examples(dataset, 48, 0)
    config = tiny(data_dir, **{"data.pad": 0, "teacher.workdir": str(run)})
    with pytest.raises(InputError, match=r"train_examples: 64 -> 48; a teacher with folds needs"):
        teachers.set_up(config, tmp_path / "run", fewer)
    # The teacher of one fold is a teacher as any other.
    fold = run / "teacher" / "folds" / "0"
    (tmp_path / "run").mkdir()
    config = tiny(data_dir, **{"data.pad": 0, "teacher.workdir": str(fold)})
    assert teachers.set_up(config, tmp_path / "run", fewer) == fold


@pytest.mark.slow
def test_teachers_that_are_applied_in_every_step_teach_alike(run, data_dir, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run / "teacher", folder / "teacher")
    config = tiny(data_dir, **FOLDS | {"teacher.cache": "off"})
    pipeline.train(config, folder)
    for leaf, expected in zip(final_arrays(folder)[1], final_arrays(run)[1], strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_networks_of_earlier_folds_are_not_kept_in_memory(run, alive) -> None:
    network = kdjax.restore(run / "teacher" / "folds" / "0")
    size = sum(leaf.size for leaf in jax.tree.leaves(network.variables))
    assert len(alive) == 2 and alive[1] < alive[0] + size


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (65, r"teacher.folds 65: must be from 2 to the number of training images, 64"),
        (2, r"teacher.batch_size 40 is more than the 32 training images"),
    ],
)
def test_folds_that_the_data_do_not_allow_are_refused_before_training(
    dataset, data_dir, folds, message
) -> None:
    config = tiny(data_dir).copy_and_resolve_references()
    config.unlock()
    config.teacher.folds, config.teacher.batch_size = folds, 40
    with pytest.raises(InputError, match=message):
        teacher_stage.check(config, dataset)


def test_class_with_a_single_image_is_one_warning(dataset, data_dir) -> None:
    labels = np.full(64, 3, np.int32)
    labels[5] = 7
    split = data.Split(dataset.train.images, labels)
    changed = data.Dataset(**{**vars(dataset), "train": split})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        teacher_stage.check(tiny(data_dir, **FOLDS), changed)
        teacher_stage.check(tiny(data_dir), changed)
    (warning,) = caught
    assert "one training image of class '7', and the teacher that has not" in str(warning.message)


def test_folds_divide_no_unit_except_in_a_workdir_of_an_earlier_version(
    dataset, data_dir, tmp_path, monkeypatch
) -> None:
    units = np.arange(64) // 4
    train = dataclasses.replace(dataset.train, units=units)
    changed = dataclasses.replace(dataset, train=train)
    parts: list[Any] = []
    monkeypatch.setattr(teacher_stage, "train_stage", lambda jobs, part, **_: parts.append(part))
    folder = tmp_path / "teacher"
    for used, marked in ((changed, True), (changed, True), (changed, None)):
        if marked is None:  # as an earlier version has written it
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "undivided_units": None}))
        parts.clear()
        teacher_stage.train(tiny(data_dir, **FOLDS), folder, used)
        assert json.loads((folder / "config.json").read_text())["undivided_units"] is marked
        kept = [set(part.train.units.tolist()) for part in parts]
        assert bool(kept[0] & kept[1]) == (marked is None)
        shutil.rmtree(folder / "folds")
    assigned = stratified_folds(dataset.train.labels, 2, 0)
    np.testing.assert_array_equal(parts[0].train.labels, dataset.train.labels[assigned != 0])


def test_smoke_run_has_at_most_two_folds(data_dir) -> None:
    folds = [tiny(data_dir, **{"teacher.folds": count}).teacher.folds for count in (0, 2, 10)]
    assert folds == [0, 2, 2]
