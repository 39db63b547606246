"""Workdirs: metadata, comparison of runs, teachers, and the lock."""

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shlex
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from kdjax import config as configs
from kdjax import data
from kdjax.data import Dataset, Split
from kdjax.errors import InputError
from kdjax.runs import workdir
from kdjax.runtime import atomic_io

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
SPLIT_FIELDS = {
    "train_split": "train",
    "test_fraction": 0.2,
    "dev_fraction": 0.1,
    "calibration_fraction": 0.1,
    "split_seed": 0,
}
CONFIG = configs.base().to_dict() | {"order_seed": 0, "students": []}
CONFIG["data"] |= {"name": "pets", **SPLIT_FIELDS}


def metadata_of(stage="student", **changes):
    """Returns the metadata of a run with changes of its config; `data__limit` is `data.limit`."""
    config = json.loads(json.dumps(CONFIG))
    for name, value in changes.items():
        *outer, last = name.split("__")
        (config[outer[0]] if outer else config)[last] = value
    return {"stage": stage, "config": config, "dataset": data.dataset_metadata(DATASET)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def error_line(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("content", [b"", b'{"stage": "stu', b"\xff\xfe\x00"])
def test_damaged_json_is_named_in_the_error(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for call, argument in ((atomic_io.read_json, path), (workdir.read_metadata, tmp_path)):
        message = error_line(call, argument)
        assert "config.json" in message and "damaged" in message


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "null", '"stage"', "{}", '{"stage": "student"}'),
        '{"stage": "pupil", "config": {}, "dataset": {}}',
        '{"stage": "student", "config": [], "dataset": {}}',
        '{"stage": "student", "config": {}, "dataset": null}',
    ],
)
def test_folder_with_other_json_is_not_a_workdir(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert str(tmp_path) in error_line(workdir.read_metadata, tmp_path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"eval_batch_size": "many"}, "eval_batch_size 'many' is not an integer"),
        ({"seed": None, "order_seed": 0}, "seed None is not an integer"),
        ({"data": 5}, "data.cache is missing"),
        ({"students": 3}, "students 3 is not a tuple of dicts"),
        ({"student": {"epochs": [1]}}, r"student.epochs \[1\] is not an integer"),
    ],
)
def test_field_of_another_type_is_named_with_the_file(tmp_path, fields, reason):
    metadata = {"stage": "student", "config": fields, "dataset": {}}
    (tmp_path / "config.json").write_text(json.dumps(metadata))
    message = f"'{tmp_path}/config.json' is damaged: {reason}"
    with pytest.raises(InputError, match=message.replace("data.cache", r"data\.\w+")):
        workdir.read_metadata(tmp_path)


def test_workdir_with_a_backslash_is_refused_before_it_is_created(tmp_path):
    message = error_line(workdir.require_writable, tmp_path / "a\\b")
    assert "must not contain a backslash" in message
    assert list(tmp_path.iterdir()) == []


# The run to which a workdir belongs


def test_dataset_metadata_consists_of_json_values():
    metadata = data.dataset_metadata(DATASET)
    assert metadata == json.loads(json.dumps(metadata))
    assert metadata == {
        "name": "pets",
        "version": "1.2.0",
        "class_names": ["cat", "dog"],
        "image_shape": [4, 5, 3],
        "train_examples": 6,
        "mean": [0.5, 0.25, float(np.float32(0.1))],
        "std": [1.0, 0.5, float(np.float32(0.2))],
    }


def test_first_claim_is_kept_if_only_free_fields_differ(tmp_path):
    folder = tmp_path / "runs" / "pets"
    workdir.claim(folder, metadata_of())
    assert workdir.read_metadata(folder) == metadata_of()
    before = contents(folder)
    free = {"log_every": 1, "metric_writers": ["wandb"], "data__dir": "elsewhere"}
    workdir.claim(folder, metadata_of(**free))
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
def test_workdir_of_another_run_is_refused_with_the_differences(tmp_path, changes, line):
    workdir.claim(tmp_path, metadata_of())
    before = contents(tmp_path)
    for call in (workdir.check_same_run, workdir.claim):
        message = error_line(call, tmp_path, metadata_of(**changes))
        assert f"its fields and yours: {line}. Choose" in message
    assert contents(tmp_path) == before


def test_teacher_is_evaluated_as_often_as_before_unless_it_is_of_an_earlier_version(tmp_path):
    config = configs.base()
    config.eval_every = 3
    metadata = workdir.run_metadata(config, "teacher", data.dataset_metadata(DATASET))
    workdir.claim(tmp_path, metadata)
    config.eval_every = 6
    changed = workdir.run_metadata(config, "teacher", metadata["dataset"])
    message = error_line(workdir.claim, tmp_path, changed)
    assert "its fields and yours: eval_every: 3 -> 6. Choose" in message
    del metadata["config"]["eval_every"]
    (tmp_path / "config.json").write_text(json.dumps(metadata))
    workdir.claim(tmp_path, changed)


def test_only_the_given_keys_are_compared(tmp_path):
    workdir.claim(tmp_path, metadata_of())
    changed = metadata_of(seed=1)
    for key in ("stage", "dataset"):
        workdir.check_same_run(tmp_path, {key: changed[key]})
    assert "seed" in error_line(workdir.check_same_run, tmp_path, {"config": changed["config"]})


def test_tuples_equal_the_lists_of_json(tmp_path):
    workdir.claim(tmp_path, {"config": {"sizes": (1, 2)}, "stage": "student", "dataset": {}})
    workdir.check_same_run(tmp_path, {"config": {"sizes": (1, 2)}})
    assert "sizes: [1, 2] -> [2, 1]" in error_line(
        workdir.check_same_run, tmp_path, {"config": {"sizes": (2, 1)}}
    )


def test_command_in_a_message_is_quoted_for_the_shell():
    command = workdir.evaluate_command(pathlib.Path("my runs/it's"))
    assert shlex.split(command)[-2:] == ["evaluate", "--workdir=my runs/it's"]


@pytest.mark.parametrize("folder", ["", "missing", "missing/deeper"])
def test_new_folder_belongs_to_no_run(tmp_path, folder):
    workdir.check_same_run(tmp_path / folder, metadata_of())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "runs/pets"])
def test_folder_that_cannot_be_created_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for call, *args in ((workdir.require_writable,), (workdir.claim, metadata_of())):
        reason = "Not a directory" if below else "it is a file"
        assert f"cannot be written: {reason}" in error_line(call, file / below, *args)
    assert file.read_text() == "not a folder"


def test_read_only_file_system_is_refused(tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    message = error_line(workdir.claim, tmp_path, metadata_of())
    assert message == f"workdir {str(tmp_path)!r} cannot be written: Read-only file system"


def test_check_for_writability_leaves_no_file(tmp_path):
    workdir.require_writable(tmp_path / "runs" / "pets")
    assert list((tmp_path / "runs" / "pets").iterdir()) == []


# Teachers


@pytest.fixture
def run(tmp_path):
    """A run with the teacher that it trained."""
    workdir.claim(tmp_path / "run", metadata_of())
    workdir.claim(tmp_path / "run" / "teacher", metadata_of("teacher"))
    return tmp_path / "run"


def test_teacher_is_found_by_its_workdir_or_by_that_of_its_run(run, monkeypatch):
    for folder in (run, run / "teacher"):
        assert workdir.teacher_folder(str(folder)) == run / "teacher"
    monkeypatch.setenv("HOME", str(run.parent))
    assert workdir.teacher_folder("~/run") == run / "teacher"
    monkeypatch.chdir(run)
    assert workdir.teacher_folder("teacher") == pathlib.Path("teacher")


@pytest.mark.parametrize(
    ("given", "message"),
    [("", "holds no teacher"), ("nothing/here", "is not a workdir"), ("teacher", "not a workdir")],
)
def test_folder_without_a_teacher_is_refused(tmp_path, given, message):
    workdir.claim(tmp_path, metadata_of())
    error = error_line(workdir.teacher_folder, str(tmp_path / given))
    assert str(tmp_path / given) in error and message in error


def test_teacher_of_the_same_data_is_accepted(run):
    fewer = dataclasses.replace(DATASET, train=Split(SPLIT.images[:2], SPLIT.labels[:2]))
    for dataset in (DATASET, fewer):
        workdir.check_teacher(
            run / "teacher", dataset, SPLIT_FIELDS | {"limit": 2, "dir": "x", "pad": 9}
        )


@pytest.mark.parametrize(
    ("dataset", "fields", "line"),
    [
        ({"name": "cars"}, {}, "data.name: 'pets' -> 'cars'"),
        ({"version": "2.0.0"}, {}, "data.version: '1.2.0' -> '2.0.0'"),
        (
            {"class_names": ("cat", "bird")},
            {},
            "data.class_names: ['cat', 'dog'] -> ['cat', 'bird']",
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
def test_teacher_of_other_data_is_refused_with_the_differences(run, dataset, fields, line):
    changed = dataclasses.replace(DATASET, **dataset)
    message = error_line(workdir.check_teacher, run / "teacher", changed, SPLIT_FIELDS | fields)
    assert message.endswith(f"its fields and yours: {line}")
    assert str(run / "teacher") in message


def test_teacher_with_the_classes_in_another_order_is_accepted(run):
    changed = dataclasses.replace(DATASET, class_names=DATASET.class_names[::-1])
    workdir.check_teacher(run / "teacher", changed, SPLIT_FIELDS)


def test_link_to_a_moved_teacher_is_replaced(run, tmp_path):
    folder = tmp_path / "second run"
    folder.mkdir()
    workdir.link_teacher(folder, tmp_path / "moved away")
    workdir.link_teacher(folder, run / "teacher")
    assert (folder / "teacher").resolve() == run / "teacher"


def test_teacher_in_the_workdir_is_not_replaced_by_a_link(run, tmp_path):
    before = contents(run / "teacher")
    assert "already contains a teacher" in error_line(workdir.link_teacher, run, tmp_path)
    assert contents(run / "teacher") == before


# The lock

HOLD_LOCK = """
import pathlib, sys
from kdjax.runs import workdir
with workdir.lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the workdir `run` until its standard input is closed."""
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def assert_lock_is_free(folder):
    with workdir.lock(folder):
        pass
    assert list(folder.iterdir()) == []


def test_lock_held_by_the_same_process_is_refused_with_its_owner(tmp_path):
    folder = tmp_path / "run"
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with workdir.lock(folder):
        refused = pytest.raises(InputError, match=f"'{folder}' is in use by {owner}: wait")
        with refused, workdir.lock(folder):
            pass
    assert list(folder.iterdir()) == []
    assert_lock_is_free(folder)


@pytest.mark.slow
def test_lock_held_by_another_process_is_refused_with_its_owner(tmp_path, holder):
    folder = tmp_path / "run"
    owner = f"process {holder.pid} on {socket.gethostname()}"
    for _ in range(2):  # a refused attempt does not release the lock
        with pytest.raises(InputError, match=f"is in use by {owner}: wait"), workdir.lock(folder):
            pass
    holder.stdin.close()
    assert holder.wait(timeout=30) == 0
    assert list(folder.iterdir()) == []
    assert_lock_is_free(folder)


@pytest.mark.slow
def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    folder = tmp_path / "run"
    holder.kill()
    assert holder.wait(timeout=30) == -9
    assert {path.name for path in folder.iterdir()} == {".lock", ".lock_owner"}
    with workdir.lock(folder):
        assert str(os.getpid()) in (folder / ".lock_owner").read_text()
    assert list(folder.iterdir()) == []


def test_lock_is_released_if_the_body_raises(tmp_path):
    with pytest.raises(KeyError), workdir.lock(tmp_path / "run"):
        raise KeyError
    assert_lock_is_free(tmp_path / "run")


def test_full_disk_in_the_body_names_the_workdir(tmp_path):
    folder = tmp_path / "run"
    message = f"workdir '{folder}': No space left on device"
    with pytest.raises(OSError, match=message), workdir.lock(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    named = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")
    with pytest.raises(OSError) as raised, workdir.lock(folder):
        raise named
    assert raised.value is named


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EPERM", "EINVAL", "EIO"])
def test_lock_works_on_a_file_system_without_flock(name, tmp_path, monkeypatch):
    def fails(*_):
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    folder = tmp_path / "run"
    message = f"the file system of '{folder}' has no locks: the file '.lock_file' in it locks"
    with pytest.warns(RuntimeWarning, match=message), workdir.lock(folder):
        assert {path.name for path in folder.iterdir()} == {".lock_file", ".lock_owner"}
        refused = pytest.raises(
            InputError, match=rf"is in use by process {os.getpid()} on .*: wait"
        )
        with refused as raised, workdir.lock(folder):
            pass
        assert f"remove '{folder}/.lock_file'" in str(raised.value)
    assert list(folder.iterdir()) == []
    with pytest.warns(RuntimeWarning, match=message):
        assert_lock_is_free(folder)


def test_lock_file_of_another_user_is_named(tmp_path, monkeypatch):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(workdir, "require_writable", lambda folder: None)
    with pytest.raises(PermissionError, match=r"\.lock"), workdir.lock(folder):
        pass
    assert list(folder.iterdir()) == []
