import dataclasses
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from kdjax import workdir
from kdjax.data import Dataset, Split
from kdjax.errors import InputError

SPLIT = Split(np.zeros((6, 4, 5, 3), np.uint8), np.zeros(6, np.int32))
DATASET = Dataset(
    name="pets",
    version="1.2.0",
    class_names=("cat", "dog"),
    train=SPLIT,
    dev=SPLIT,
    calibration=SPLIT,
    test=SPLIT,
    mean=np.array([0.5, 0.25, 0.1], np.float32),
    std=np.array([1.0, 0.5, 0.2], np.float32),
)
CUT = {
    "train_split": "train",
    "dev_fraction": 0.1,
    "calibration_fraction": 0.1,
    "split_seed": 0,
}
CONFIG = {
    "seed": 0,
    "log_every": 50,
    "data": {"name": "pets", "dir": "", "limit": 0, **CUT},
    "objective": {"payoff": 2.2},
}


def identity(stage="student", **changes):
    """What a run is; changes are of the config, `data__seed` being `data.seed`."""
    config = json.loads(json.dumps(CONFIG))
    for name, value in changes.items():
        *outer, last = name.split("__")
        (config[outer[0]] if outer else config)[last] = value
    return {"stage": stage, "config": config, "dataset": workdir.describe(DATASET)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# JSON files


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"c": "é", "d": True}}
    path = tmp_path / "deep" / "results.json"
    workdir.write_json(path, value)
    assert workdir.read_json(path) == value
    assert path.read_text().endswith("}\n")
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    workdir.write_json(tmp_path / "results.json", {"a": 1})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        workdir.write_json(tmp_path / "results.json", {"a": 2, "b": object()})
    assert contents(tmp_path) == before


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    old = os.umask(0o027)
    try:
        workdir.write_json(tmp_path / "config.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("content", [b"", b'{"stage": "stu', b"\xff\xfe\x00"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for call, argument in ((workdir.read_json, path), (workdir.read, tmp_path)):
        message = one_line(call, argument)
        assert "config.json" in message and "damaged" in message


@pytest.mark.parametrize("content", ["[]", "null", '"stage"', "{}", '{"stage": "student"}'])
def test_json_of_another_kind_makes_no_workdir(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert str(tmp_path) in one_line(workdir.read, tmp_path)


# Whose a folder is


def test_a_data_set_is_described_in_json_values():
    found = workdir.describe(DATASET)
    assert found == json.loads(json.dumps(found))
    assert found == {
        "name": "pets",
        "version": "1.2.0",
        "class_names": ["cat", "dog"],
        "image_shape": [4, 5, 3],
        "train_examples": 6,
        "mean": [0.5, 0.25, float(np.float32(0.1))],
        "std": [1.0, 0.5, float(np.float32(0.2))],
    }


def test_the_first_claim_is_written_and_stays(tmp_path):
    folder = tmp_path / "runs" / "pets"
    workdir.claim(folder, identity())
    assert workdir.read(folder) == identity()
    before = contents(folder)
    workdir.claim(folder, identity(log_every=1, data__dir="elsewhere"))
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data__limit": 9}, "data.limit: 0 -> 9"),
        ({"data__dev_fraction": 0.2, "data__dir": "x"}, "data.dev_fraction: 0.1 -> 0.2"),
        ({"objective__payoff": 3.0}, "objective.payoff: 2.2 -> 3.0"),
        ({"extra": True}, "extra: None -> True"),
        ({"seed": 1, "data__limit": 9}, "data.limit: 0 -> 9; seed: 0 -> 1"),
        ({"stage": "teacher"}, "stage: 'student' -> 'teacher'"),
    ],
)
def test_the_folder_of_another_run_is_refused_with_what_differs(tmp_path, changes, line):
    workdir.claim(tmp_path, identity())
    before = contents(tmp_path)
    for call in (workdir.check_same, workdir.claim):
        message = one_line(call, tmp_path, identity(**changes))
        assert f"its fields and yours: {line}. Choose" in message
    assert contents(tmp_path) == before


def test_only_what_is_given_is_compared(tmp_path):
    workdir.claim(tmp_path, identity())
    changed = identity(seed=1)
    for key in ("stage", "dataset"):
        workdir.check_same(tmp_path, {key: changed[key]})
    assert "seed" in one_line(workdir.check_same, tmp_path, {"config": changed["config"]})


def test_tuples_are_the_lists_that_json_makes_of_them(tmp_path):
    workdir.claim(tmp_path, {"config": {"sizes": (1, 2)}, "stage": "student", "dataset": {}})
    workdir.check_same(tmp_path, {"config": {"sizes": (1, 2)}})
    assert "sizes: [1, 2] -> [2, 1]" in one_line(
        workdir.check_same, tmp_path, {"config": {"sizes": (2, 1)}}
    )


@pytest.mark.parametrize("folder", ["", "missing", "missing/deeper"])
def test_a_folder_that_nobody_has_begun_is_anyones(tmp_path, folder):
    workdir.check_same(tmp_path / folder, identity())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs/pets"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for call, *args in ((workdir.require_writable,), (workdir.claim, identity())):
        assert "cannot be written: " in one_line(call, file / below, *args)
    assert file.read_text() == "not a folder"


def test_a_disk_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    message = one_line(workdir.claim, tmp_path, identity())
    assert message == f"workdir {str(tmp_path)!r} cannot be written: Read-only file system"


def test_checking_that_a_folder_is_writable_leaves_nothing_in_it(tmp_path):
    workdir.require_writable(tmp_path / "runs" / "pets")
    assert list((tmp_path / "runs" / "pets").iterdir()) == []


# Teachers


@pytest.fixture
def run(tmp_path):
    """A run with the teacher that it trained."""
    workdir.claim(tmp_path / "run", identity())
    workdir.claim(tmp_path / "run" / "teacher", identity("teacher"))
    return tmp_path / "run"


def test_a_teacher_stands_for_itself_and_a_run_for_its_teacher(run, monkeypatch):
    for given in (run, run / "teacher"):
        assert workdir.teacher_folder(str(given)) == run / "teacher"
    monkeypatch.setenv("HOME", str(run.parent))
    assert workdir.teacher_folder("~/run") == run / "teacher"
    monkeypatch.chdir(run)
    assert workdir.teacher_folder("teacher") == pathlib.Path("teacher")


@pytest.mark.parametrize(
    ("given", "message"),
    [("", "holds no teacher"), ("nothing/here", "is not a workdir"), ("teacher", "not a workdir")],
)
def test_what_holds_no_teacher_is_named(tmp_path, given, message):
    workdir.claim(tmp_path, identity())
    found = one_line(workdir.teacher_folder, str(tmp_path / given))
    assert str(tmp_path / given) in found and message in found


def test_a_teacher_of_the_same_data_may_teach_any_student(run):
    fewer = dataclasses.replace(DATASET, train=Split(SPLIT.images[:2], SPLIT.labels[:2]))
    for dataset in (DATASET, fewer):
        workdir.check_teacher(run / "teacher", dataset, CUT | {"limit": 2, "dir": "x", "pad": 9})


@pytest.mark.parametrize(
    ("dataset", "cut", "line"),
    [
        ({"name": "cars"}, {}, "data.name: 'pets' -> 'cars'"),
        ({"version": "2.0.0"}, {}, "data.version: '1.2.0' -> '2.0.0'"),
        (
            {"class_names": ("dog", "cat")},
            {},
            "data.class_names: ['cat', 'dog'] -> ['dog', 'cat']",
        ),
        (
            {"train": Split(np.zeros((6, 5, 5, 3), np.uint8), SPLIT.labels)},
            {},
            "data.image_shape: [4, 5, 3] -> [5, 5, 3]",
        ),
        ({}, {"train_split": "train+extra"}, "data.train_split: 'train' -> 'train+extra'"),
        ({}, {"dev_fraction": 0.2}, "data.dev_fraction: 0.1 -> 0.2"),
        ({}, {"split_seed": 1}, "data.split_seed: 0 -> 1"),
        (
            {"name": "cars"},
            {"split_seed": 1},
            "data.name: 'pets' -> 'cars'; data.split_seed: 0 -> 1",
        ),
    ],
)
def test_a_teacher_of_other_data_is_refused_with_what_differs(run, dataset, cut, line):
    other = dataclasses.replace(DATASET, **dataset)
    message = one_line(workdir.check_teacher, run / "teacher", other, CUT | cut)
    assert message.endswith(f"its fields and yours: {line}")
    assert str(run / "teacher") in message


def test_a_given_teacher_is_linked_even_after_it_has_moved(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    workdir.link_teacher(other, tmp_path / "gone")
    workdir.link_teacher(other, run / "teacher")
    assert (other / "teacher").resolve() == run / "teacher"


def test_a_teacher_that_was_begun_is_not_replaced_by_a_link(run, tmp_path):
    before = contents(run / "teacher")
    assert "teacher of its own" in one_line(workdir.link_teacher, run, tmp_path)
    assert contents(run / "teacher") == before


def test_a_workdir_in_use_is_refused_with_its_owner(tmp_path) -> None:
    folder = tmp_path / "run"
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with workdir.lock(folder):
        refused = pytest.raises(InputError, match=f"'{folder}' is in use by {owner}: wait")
        with refused, workdir.lock(folder):
            pass
    assert list(folder.iterdir()) == []
    with workdir.lock(folder):  # and it is free again
        pass


def test_the_lock_of_a_killed_process_does_not_hold(tmp_path) -> None:
    code = (
        "import os, pathlib, sys; from kdjax import workdir\n"
        "with workdir.lock(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "run"])
    assert killed.returncode == -9 and (tmp_path / "run" / ".lock").exists()
    with workdir.lock(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()
