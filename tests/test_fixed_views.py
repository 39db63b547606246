"""experiments/fixed_views.py: the settings that it compares, what it trains, and its table."""

import json
import pathlib
import types

import numpy as np
import pytest
from support.experiments import load, run_main

from kdjax import config as configs
from kdjax.errors import InputError


@pytest.fixture
def views():
    return load("fixed_views")


def record(accuracy=90.0, seconds=10.0, aurc=5.0, error_80=1.0):
    return {"accuracy": accuracy, "aurc": aurc, "error_80": error_80, "seconds": seconds}


def test_without_a_config_the_digits_are_shortened(views):
    config = configs.resolve(views.load_config("", []))
    assert config.data.name == "digits"
    assert {name: config[name.split(".")[0]][name.split(".")[1]] for name in views.SHORT} == (
        views.SHORT
    )
    assert views.load_config("digits", []).student.epochs != views.SHORT["student.epochs"]


def test_flags_change_fields_and_a_recipe_counts_where_it_stands(views):
    after = views.load_config("cifar10", ["--config.student.epochs=7", "--config.recipe=fast"])
    before = views.load_config("cifar10", ["--config.recipe=fast", "--config.student.epochs=7"])
    assert before.recipe == after.recipe == "fast"
    assert before.student.epochs == 7 and after.student.epochs != 7


@pytest.mark.parametrize("flag", ["--seed=1", "--config.seed", "config.seed=1"])
def test_another_flag_is_an_error(views, flag):
    with pytest.raises(SystemExit, match=rf"{flag}'?: only --config\.FIELD=VALUE can follow"):
        views.load_config("", [flag])


def test_flag_of_an_unknown_field_is_an_error(views):
    with pytest.raises((InputError, KeyError), match="epoch"):
        configs.resolve(views.load_config("", ["--config.student.epoch=3"]))


@pytest.mark.parametrize(
    ("counts", "epochs", "expected"),
    [
        ([1, 4], 8, {"1": 1, "4": 4, "8 (one per epoch)": 8}),
        ([1, 8, 16], 8, {"1": 1, "8 (one per epoch)": 8}),  # not more views than epochs
        ([], 3, {"3 (one per epoch)": 3}),
    ],
)
def test_settings_end_with_a_view_per_epoch_and_none_cached(views, counts, epochs, expected):
    settings = views.settings(counts, epochs)
    assert list(settings) == [*expected, views.UNCACHED]
    assert {name: each["teacher.views"] for name, each in settings.items()} == {
        **expected, views.UNCACHED: 0
    }  # fmt: skip
    assert [name for name, each in settings.items() if each.get("teacher.cache") == "off"] == [
        views.UNCACHED
    ]


def test_seed_changes_a_copy_of_the_config_and_also_the_order_of_images(views):
    config = views.load_config("", ["--config.order_seed=5"])
    changed = views.changed(config, 3, {"teacher.views": 4})
    assert (changed.seed, changed.order_seed, changed.teacher.views) == (3, 3, 4)
    assert (config.seed, config.order_seed) == (0, 5)


def test_finished_student_is_not_trained_again(views, tmp_path, monkeypatch):
    (tmp_path / views.RECORD).write_text(json.dumps(record()))
    monkeypatch.setattr(views.pipeline, "train", lambda *_: pytest.fail("trained"))
    assert views.run(views.load_config("", []), 0, {}, tmp_path) == record()


def test_student_starts_without_traces_and_without_cached_logits(views, tmp_path, monkeypatch):
    """Compilation is not counted: here it takes 2 of 5 seconds."""
    stopped, teacher = tmp_path / "student" / "checkpoints", tmp_path / "teacher"
    logits = teacher / "teacher" / "logits"
    for folder in (stopped, logits):
        folder.mkdir(parents=True)
    clock, compiled = iter([100.0, 105.0]), iter([1.0, 3.0])

    def train(config, folder):
        assert (config.seed, config.teacher.views) == (2, 4)
        assert not stopped.exists() and not logits.exists()
        folder.mkdir()
        return "dataset"

    scores = {"margin": {"aurc": 0.004, "error_at_coverage": {"80": 0.01}}}
    results = {"test": {"accuracy": 0.9}, "best_score": "margin", "scores": scores}
    monkeypatch.setattr(views.pipeline, "train", train)
    monkeypatch.setattr(views.evaluate, "evaluate", lambda folder, dataset: results)
    monkeypatch.setattr(views, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(views.compiler, "compile_seconds", lambda: next(compiled))
    changes = {"teacher.workdir": str(teacher), "teacher.views": 4}
    values = views.run(views.load_config("", []), 2, changes, tmp_path / "student")
    assert values == pytest.approx(record(90, 3, 4, 1))
    assert json.loads((tmp_path / "student" / views.RECORD).read_text()) == values


def test_table_compares_each_setting_with_the_uncached_run_of_its_seed(views):
    rows = {
        "1": [record(88, 5), record(91, 4)],
        views.UNCACHED: [record(90, 10), record(92, 16)],
    }
    lines = views.table(rows).splitlines()
    accuracy = f"89.50 (sd {np.std([88, 91], ddof=1):.2f})"
    assert lines[2] == (
        f"| 1 | {accuracy} | -1.50 (sd 0.71) | 5.00 (sd 0.00) | 1.00 (sd 0.00) | 4.5 | "
        "0.38 (0.25 to 0.50) |"
    )
    assert "| 0.00 (sd 0.00) |" in lines[3] and lines[3].endswith("| 1.00 (1.00 to 1.00) |")


def test_one_seed_has_no_deviation(views):
    assert views.mean_and_deviation([1.234]) == "1.23"


@pytest.fixture
def trained(views, monkeypatch):
    """The workdirs that `measure` trains, with stand-ins for teacher and students."""
    folders = []

    def train_teacher(config, seed, folder):
        folders.append(folder)
        return str(folder)

    def run(config, seed, changes, folder):
        folders.append(folder)
        assert changes["teacher.workdir"].endswith(f"seed-{seed}/teacher")
        (folder / "predictions").mkdir(parents=True)
        # The logits of seed 1 differ between the last views and none.
        differs = seed == 1 and folder.name == views.UNCACHED
        np.savez(folder / "predictions" / "test.npz", logits=np.full(3, float(differs)))
        return record()

    monkeypatch.setattr(views, "train_teacher", train_teacher)
    monkeypatch.setattr(views, "run", run)
    return folders


def test_page_counts_the_seeds_with_identical_logits(views, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(views.compiler, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(views.compiler, "tune_allocator", lambda: None)
    flags = ["--config.student.epochs=6", "--config.teacher.model=resnet8"]
    run_main(views, monkeypatch, "--views=1,4", "--seeds=2", f"--out={tmp_path}", *flags)
    names = ["teacher", "1", "4", "6", views.UNCACHED]
    assert trained == [tmp_path / f"seed-{seed}" / name for seed in (0, 1) for name in names]
    page = (tmp_path / "fixed_views.md").read_text()
    assert "in\n1 of 2 seeds." in page and "2 seeds, from 0, on test" in page
    assert "digits, resnet8 -> " in page and ", 6 epochs\n" in page
    assert "| 6 (one per epoch) | 90.00 (sd 0.00) |" in page
    assert capsys.readouterr().out.endswith(f"{page}\n")


def test_teacher_of_another_run_is_refused(views, monkeypatch):
    with pytest.raises(SystemExit, match=r"teacher\.workdir: the teacher is trained here"):
        run_main(views, monkeypatch, "--config.teacher.workdir=runs/other")


def test_teacher_is_trained_with_one_epoch_of_a_student(views, tmp_path, monkeypatch):
    configs_seen = []
    monkeypatch.setattr(views.pipeline, "train", lambda config, _: configs_seen.append(config))
    config = views.load_config("", ["--config.teacher.epochs=5"])
    assert views.train_teacher(config, 3, tmp_path) == str(tmp_path)
    (seen,) = configs_seen
    assert (seen.seed, seen.teacher.epochs, seen.student.epochs) == (3, 5, 1)
    assert pathlib.Path(tmp_path).exists()
