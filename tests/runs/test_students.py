"""Several students of one teacher, compared with each of them trained separately."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.commands import command
from support.runs import final_arrays, log_lines, stop_at_step, tiny

from kdjax import pipeline
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import evaluate
from kdjax.export.exporter import export
from kdjax.runs import restore, students
from kdjax.training.checkpoint import Checkpoints

CHANGES = (
    {"objective.method": "kd"},
    {"objective.method": "gambler", "objective.payoff": 1.5},
    {"seed": 3, "student.width": 3, "student.learning_rate": 0.02},
)
NAMES = ["method=kd", "method=gambler,payoff=1.5", "seed=3,width=3,learning_rate=0.02"]


def several_students(data_dir: pathlib.Path) -> ConfigDict:
    return tiny(data_dir, students=CHANGES, **{"objective.pretrain_epochs": 1})


@pytest.fixture(scope="module")
def group_run(data_dir, tmp_path_factory) -> pathlib.Path:
    """A run that was interrupted, with one student a checkpoint ahead, and resumed."""
    folder, config = tmp_path_factory.mktemp("students") / "run", several_students(data_dir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 6)
        pipeline.train(config, folder)
    with Checkpoints(folder / "students" / NAMES[0] / "checkpoints", {}) as checkpoints:
        assert checkpoints.steps() == [4, 6]
    for name in NAMES[1:]:  # as if the run had been killed between the saves
        saved = folder / "students" / name / "checkpoints" / "6"
        saved.rename(folder / f"{name} not saved")
    dataset = pipeline.train(config, folder)
    evaluate.evaluate_all(list(pipeline.student_workdirs(config, folder)), dataset)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_student_of_a_group_equals_the_student_trained_separately(
    name, group_run, data_dir, tmp_path
) -> None:
    config = students.expand(several_students(data_dir))[name]
    with config.unlocked():
        config.teacher.workdir = str(group_run)
    dataset = pipeline.train(config, tmp_path)
    steps, expected = final_arrays(tmp_path)
    group_steps, actual = final_arrays(group_run / "students" / name)
    assert steps == group_steps == 8
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-3, atol=1e-4)
    separate = evaluate.evaluate(tmp_path, dataset)
    results = json.loads((group_run / "students" / name / "results.json").read_text())
    assert results["test"]["nll"] == pytest.approx(separate["test"]["nll"], rel=1e-3)
    assert results.keys() == separate.keys()


@pytest.mark.slow
def test_students_without_a_common_checkpoint_are_refused_instead_of_restarted(
    group_run, data_dir, tmp_path
) -> None:
    run = shutil.copytree(group_run, tmp_path / "run", symlinks=True)
    first, second = (run / "students" / name / "checkpoints" for name in NAMES[:2])
    for step in ("4", "6"):
        shutil.rmtree(first / step, ignore_errors=True)
    (second / "8" / "state" / "_METADATA").write_bytes(b"")
    before = sorted(path for path in run.rglob("*") if path.is_file())
    with (
        pytest.warns(RuntimeWarning, match="is damaged"),
        pytest.raises(InputError, match=r"no step of which all networks have a readable .*: 8;"),
    ):
        pipeline.train(several_students(data_dir), run)
    assert set(before) <= set(run.rglob("*"))


@pytest.mark.slow
def test_each_student_has_a_workdir_and_links_the_teacher(group_run) -> None:
    assert sorted(path.name for path in (group_run / "students").iterdir()) == sorted(NAMES)
    for name in NAMES:
        folder = group_run / "students" / name
        assert [line["step"] for line in log_lines(folder) if line["split"] == "dev"] == [4, 8]
        assert (folder / "predictions" / "test.npz").is_file()
        restore.restore(folder)
        needs_teacher = "gambler" not in name
        assert (folder / "teacher").is_symlink() == needs_teacher
        if needs_teacher:
            assert (folder / "teacher").resolve() == group_run / "teacher"


@pytest.mark.slow
def test_teacher_of_the_group_is_evaluated_with_the_settings_of_the_students(
    data_dir, tmp_path
) -> None:
    students = ({"objective.method": "kd"}, {"objective.method": "ce"})
    settings = {"selective.risk": 0.6, "selective.set_alpha": 0.3, "selective.set_method": "aps"}
    config = tiny(data_dir, students=students, **settings)
    dataset = pipeline.train(config, tmp_path)
    evaluate.evaluate_all(list(pipeline.student_workdirs(config, tmp_path)), dataset)
    before = json.loads((tmp_path / "teacher" / "results.json").read_text())
    assert before["guarantee"]["risk"] == 0.6
    sets = before["promises"]["sets"]
    assert (sets["alpha"], sets["method"]) == (0.3, "aps")
    after = evaluate.evaluate(tmp_path / "teacher", dataset)
    assert (after["guarantee"]["risk"], after["views"]) == (0.6, before["views"])
    assert after["promises"]["sets"] == sets
    with pytest.warns(UserWarning, match="no threshold could be certified at risk 0.6"):
        exported = export(tmp_path / "teacher", tmp_path / "model")
    assert exported["promises"]["sets"]["alpha"] == 0.3


def test_run_is_finished_when_all_students_are(group_run, data_dir) -> None:
    config = several_students(data_dir)
    results = pipeline.finished_results(config, group_run)
    assert results and [folder.name for folder in results] == NAMES
    path = group_run / "students" / NAMES[1] / "results.json"
    path.rename(path.with_suffix(".hidden"))
    assert pipeline.finished_results(config, group_run) is None
    path.with_suffix(".hidden").rename(path)
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        pipeline.finished_results(tiny(data_dir, students=CHANGES, seed=1), group_run)


@pytest.mark.slow
def test_workdir_of_the_group_cannot_be_restored(group_run) -> None:
    with pytest.raises(InputError, match=r"holds several students: choose one .*method=kd"):
        restore.restore(group_run)


@pytest.mark.slow
def test_command_shows_the_students_side_by_side(group_run, data_dir) -> None:
    config = several_students(data_dir)
    flags = {
        "students": CHANGES,
        "teacher.model": config.teacher.model,
        "student.model": config.student.model,
        "smoke": True,
        "objective.pretrain_epochs": 1,
        "data.dir": data_dir,
    }
    done = command(
        *("main", "--config=configs/digits.py", f"--workdir={group_run}"),
        *(f"--config.{field}={value}" for field, value in flags.items()),
    )
    assert done.returncode == 0, done.stderr
    assert "is finished; nothing to do" in done.stdout
    for name in ("method=kd", "method=gambler", "seed=3"):
        assert f"│ {name}" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (({"student.epochs": 3},), "'student.epochs' is the same for all students"),
        (({"teacher.model": "resnet8"},), "'teacher.model' is the same for all students"),
        (({"data.pad": 0},), "'data.pad' is the same for all .*may differ in objective"),
        (({"objective.metod": "kd"},), "did you mean 'objective.method'"),
        (({"objective.method": "kdd"},), "objective.method 'kdd': did you mean 'kd'"),
        (({"objective.payoff": 0.5},), "objective.payoff.* 0.5"),
        (({"objective.payoff": "much"},), "objective.payoff 'much'"),
        (({"seed": 1}, {"seed": 1}), "is given twice"),
        (
            ({"student.init": "a/m"}, {"student.init": "b/m"}),
            "'a/m'} and {'student.init': 'b/m'} would have the same folder, 'init=m'",
        ),
        (({},), "an entry without fields"),
        (({"seed": 2**32},), "seed 4294967296 is out of range"),
        (({"student.weight_decay": float("inf")},), "student.weight_decay inf is not a finite"),
        (
            (dict.fromkeys(("student.ema_decay", "student.average_start"), "0." + 150 * "1"),),
            "would have 3.. bytes, at most 255",
        ),
    ],
)
def test_invalid_changes_of_a_student_are_refused(changes, message, data_dir, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.train(tiny(data_dir, students=changes), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()


def test_learning_rate_of_a_student_follows_its_model(data_dir) -> None:
    changes = ({"student.model": "alexnet"}, {"student.model": "resnet8"})
    config = tiny(data_dir, students=changes, **{"student.learning_rate": 0.0})
    rates = [expanded.student.learning_rate for expanded in students.expand(config).values()]
    assert rates == [0.01, 0.1]
