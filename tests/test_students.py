"""Many students of one teacher, beside each of them alone."""

import json
import pathlib

import numpy as np
import pytest
from commands import python
from ml_collections import ConfigDict
from test_train import arrays, lines, tiny

from kdjax import assess, stage, students, train
from kdjax.checkpoint import Checkpoints
from kdjax.errors import InputError, Preempted
from kdjax.preemption import Preemption

CHANGES = (
    {"objective.method": "kd"},
    {"objective.method": "gambler", "objective.payoff": 1.5},
    {"seed": 3, "student.model": "resnet8", "student.learning_rate": 0.02},
)
NAMES = ["method=kd", "method=gambler,payoff=1.5", "seed=3,model=resnet8,learning_rate=0.02"]


def several(data_dir: pathlib.Path) -> ConfigDict:
    return tiny(data_dir, students=CHANGES, **{"objective.pretrain_epochs": 1})


@pytest.fixture(scope="module")
def together(data_dir, tmp_path_factory) -> pathlib.Path:
    """A run that is stopped, with one student a checkpoint ahead of the others, and goes on."""
    folder, config = tmp_path_factory.mktemp("students") / "run", several(data_dir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Preemption, "asked", lambda self, done: done == 6)
        train.run(config, folder)
    ahead = folder / "students" / NAMES[0] / "checkpoints"
    with Checkpoints(ahead, {}) as checkpoints:
        assert checkpoints.steps() == [4, 6]
    for name in NAMES[1:]:  # as a kill between their saves would have it
        saved = folder / "students" / name / "checkpoints" / "6"
        saved.rename(folder / f"{name} never came to it")
    dataset = train.run(config, folder)
    assess.assess_all(list(train.folders(config, folder)), dataset)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_ends_as_a_run_of_it_alone(name, together, data_dir, tmp_path) -> None:
    own = students.expand(several(data_dir))[name]
    with own.unlocked():
        own.teacher.workdir = str(together)
    dataset = train.run(own, tmp_path)
    (steps, expected), (again, found) = arrays(tmp_path), arrays(together / "students" / name)
    assert steps == again == 8
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    alone = assess.assess(tmp_path, dataset)
    results = json.loads((together / "students" / name / "results.json").read_text())
    assert results["test"]["nll"] == pytest.approx(alone["test"]["nll"], rel=1e-3)
    assert results.keys() == alone.keys()


def test_each_has_a_workdir_of_its_own_and_they_share_the_teacher(together) -> None:
    assert sorted(path.name for path in (together / "students").iterdir()) == sorted(NAMES)
    for name in NAMES:
        folder = together / "students" / name
        assert [line["step"] for line in lines(folder) if line["split"] == "dev"] == [4, 8]
        assert (folder / "predictions" / "test.npz").is_file()
        stage.restore(folder)
        asks = "gambler" not in name
        assert (folder / "teacher").is_symlink() == asks
        if asks:
            assert (folder / "teacher").resolve() == together / "teacher"


def test_the_run_is_finished_when_all_of_them_are(together, data_dir) -> None:
    config = several(data_dir)
    found = train.finished(config, together)
    assert found and [folder.name for folder in found] == NAMES
    moved = together / "students" / NAMES[1] / "results.json"
    moved.rename(moved.with_suffix(".away"))
    assert train.finished(config, together) is None
    moved.with_suffix(".away").rename(moved)
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        train.finished(tiny(data_dir, students=CHANGES, seed=1), together)


def test_the_whole_is_no_network(together) -> None:
    with pytest.raises(InputError, match=r"holds several students: name one of .*method=kd"):
        stage.restore(together)


def test_the_command_shows_them_side_by_side(together, data_dir) -> None:
    flags = {"students": CHANGES, "smoke": True, "teacher.width": 2, "student.width": 2,
             "objective.pretrain_epochs": 1, "data.dir": data_dir}  # fmt: skip
    done = python(
        "-m", "kdjax.main", "--config=configs/digits.py", f"--workdir={together}",
        *(f"--config.{field}={value}" for field, value in flags.items()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is finished; nothing to do" in done.stdout
    for name in ("method=kd", "method=gambler", "seed=3"):
        assert f"│ {name}" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (({"student.epochs": 3},), "unknown field of a student 'student.epochs'"),
        (({"teacher.model": "resnet8"},), "unknown field of a student 'teacher.model'"),
        (({"data.pad": 0},), "unknown field of a student 'data.pad'"),
        (({"objective.metod": "kd"},), "did you mean 'objective.method'"),
        (({"objective.method": "kdd"},), "objective.method 'kdd': did you mean 'kd'"),
        (({"objective.payoff": 0.5},), "objective.payoff.* 0.5"),
        (({"objective.payoff": "much"},), "objective.payoff 'much'"),
        (({"seed": 1}, {"seed": 1}), "is there twice"),
        (({},), "changes nothing"),
    ],
)
def test_what_students_cannot_differ_in_is_refused(changes, message, data_dir, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        train.run(tiny(data_dir, students=changes), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
