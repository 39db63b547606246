"""The metric writers: what they write, and how they continue after a kill."""

import resource
import types

import pytest
from support import loggers, sample_runs
from support.loggers import Mlflow, Wandb
from support.logs import frozen_clock, tensorboard_scalars
from support.runs import log_lines

from kdjax.errors import InputError
from kdjax.training.metric_writer import (
    METRIC_WRITERS,
    JsonLinesWriter,
    TensorBoardWriter,
    check_names,
    open_writers,
)


@pytest.fixture
def clock(monkeypatch):
    return frozen_clock(monkeypatch)


def test_json_lines_writer_appends_an_object_per_call_at_once(tmp_path):
    writer = JsonLinesWriter(tmp_path, 0)
    writer.write(4, "train", 101.50049, {"loss": 0.5, "accuracy": 0.25})
    # Before the writer is closed: a kill loses nothing.
    assert log_lines(tmp_path) == [
        {"step": 4, "split": "train", "clock": 101.5, "loss": 0.5, "accuracy": 0.25}
    ]
    writer.write(4, "dev", 102, {"accuracy": 0.125})
    writer.close()
    assert log_lines(tmp_path)[1:] == [{"step": 4, "split": "dev", "clock": 102, "accuracy": 0.125}]


@pytest.mark.parametrize("cut_line", [b"", b'{"step": 2, "spl', b"{", b"\xff\n", b"[1]\n", b"7\n"])
def test_json_lines_writer_drops_later_steps_and_a_damaged_line(tmp_path, cut_line):
    writer = JsonLinesWriter(tmp_path, 0)
    for step in (1, 2, 3, 4):
        writer.write(step, "train", 0, {"loss": step / 4})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(cut_line)
    JsonLinesWriter(tmp_path, 2).close()
    assert [(line["step"], line["loss"]) for line in log_lines(tmp_path)] == [(1, 0.25), (2, 0.5)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_writer_writes_scalars_by_split_and_name(tmp_path, clock):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.write(4, "train", 0, {"loss": 0.5, "accuracy": 0.25})
    writer.write(4, "dev", 0, {"accuracy": 0.125})
    writer.close()
    assert tensorboard_scalars(tmp_path) == [
        (4, "train/loss", 0.5),
        (4, "train/accuracy", 0.25),
        (4, "dev/accuracy", 0.125),
    ]


def test_tensorboard_hides_steps_that_are_run_again(tmp_path, clock):
    first = TensorBoardWriter(tmp_path, 0)
    for step in (1, 2, 3, 4):
        first.write(step, "train", 0, {"loss": step / 4})
    first.close()
    clock.now += 1
    second = TensorBoardWriter(tmp_path, 2)
    for step in (3, 4, 5):
        second.write(step, "train", 0, {"loss": step / 8})
    second.close()
    expected = [(1, 0.25), (2, 0.5), (3, 0.375), (4, 0.5), (5, 0.625)]
    assert [(step, value) for step, _, value in tensorboard_scalars(tmp_path)] == expected


def test_sessions_that_start_in_the_same_second_keep_all_events(tmp_path, clock):
    for step in (1, 2, 3):
        writer = TensorBoardWriter(tmp_path, step - 1)
        writer.write(step, "train", 0, {"loss": step / 4})
        writer.close()
    assert tensorboard_scalars(tmp_path) == [(s, "train/loss", s / 4) for s in (1, 2, 3)]


@pytest.fixture
def services(monkeypatch):
    """Stand-ins for wandb and mlflow."""
    stand_ins = types.SimpleNamespace(wandb=Wandb(), mlflow=Mlflow())
    loggers.install(monkeypatch, **vars(stand_ins))
    return stand_ins


@pytest.fixture
def folder(tmp_path):
    """The folder of a teacher, with its config."""
    folder = tmp_path / "digits" / "teacher"
    config = {"seed": 3, "teacher": {"model": "x" * 600}, "students": []}
    sample_runs.write_json(folder / "config.json", {"stage": "teacher", "config": config})
    return folder


def sessions(folder, *names):
    """Writes a step in a first session, and the next one in a second session."""
    for done, loss in ((0, 0.5), (1, 0.25)):
        writers = open_writers(names, folder, done)
        for writer in writers:
            writer.write(done + 1, "train", done + 1.5, {"loss": loss})
            writer.close()


@pytest.mark.parametrize("name", METRIC_WRITERS)
def test_every_writer_opens_a_new_and_an_existing_folder(name, tmp_path, clock, services):
    for done in (0, 1):
        writer = METRIC_WRITERS[name](tmp_path, done)
        writer.write(done + 1, "train", 0.5, {"loss": 0.25})
        writer.close()
        clock.now += 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(path.stat().st_size for path in written)


def test_wandb_run_has_the_config_and_is_continued_by_the_next_session(
    folder, services, monkeypatch
):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    sessions(folder, "wandb")
    (run,) = services.wandb.runs.values()
    assert run["lines"] == [
        (1, {"train/loss": 0.5, "clock": 1.5}),
        (2, {"train/loss": 0.25, "clock": 2.5}),
    ]
    assert run["finished"] == 2
    options = run["options"]
    assert options["project"] == "mine" and options["name"] == "digits/teacher"
    assert options["resume"] == "allow" and options["config"]["seed"] == 3


def test_mlflow_run_has_the_config_and_is_continued_by_the_next_session(
    folder, services, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    sessions(folder, "mlflow")
    assert services.mlflow.experiments == {"0": "mine"}
    (run,) = services.mlflow.runs.values()
    assert run["metrics"] == [
        *(("train/loss", 0.5, 1), ("clock", 1.5, 1)),
        *(("train/loss", 0.25, 2), ("clock", 2.5, 2)),
    ]
    assert (run["name"], run["experiment"], run["status"]) == ("digits/teacher", "0", "FINISHED")
    assert run["params"] == {"seed": "3", "teacher.model": "x" * 500, "students": "[]"}


def test_each_folder_has_a_run_of_its_own_in_the_same_project(folder, services):
    other = folder.parent / "students" / "method=kd"
    other.mkdir(parents=True)
    for path in (folder, other):
        sessions(path, "wandb", "mlflow")
    names = [run["options"]["name"] for run in services.wandb.runs.values()]
    assert names == ["digits/teacher", "students/method=kd"]
    assert [run["name"] for run in services.mlflow.runs.values()] == names
    assert list(services.mlflow.experiments.values()) == ["kdjax"]


def test_json_lines_are_always_written_and_a_writer_is_opened_once(tmp_path, services):
    for names, count in ((["wandb", "jsonl", "wandb"], 2), ([], 1)):
        writers = open_writers(names, tmp_path, 0)
        assert len(writers) == count and isinstance(writers[0], JsonLinesWriter)
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_writer_without_its_package_is_one_warning_and_training_goes_on(
    name, tmp_path, monkeypatch
):
    loggers.install(monkeypatch, **{name: None})
    message = f"^the metric writer '{name}' is off, training goes on: .*'kdjax\\[{name}\\]'$"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        sessions(tmp_path, name)
    assert len(caught) == 2  # one for each session
    assert [line["loss"] for line in log_lines(tmp_path)] == [0.5, 0.25]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_writer_that_fails_is_one_warning_and_is_not_used_again(
    failing, tmp_path, services, monkeypatch
):
    calls = []

    def fail(*_, **__):
        calls.append(failing)
        raise ConnectionError("no network\nsecond line")

    run = types.SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)
    monkeypatch.setattr(services.wandb, "init", lambda **_: run)
    monkeypatch.setattr(services.wandb if failing == "init" else run, failing, fail)
    with pytest.warns(RuntimeWarning, match="'wandb' is off, .*: no network$") as caught:
        writers = open_writers(["wandb"], tmp_path, 0)
        for step in (1, 2):
            for writer in writers:
                writer.write(step, "train", 0.0, {"loss": step / 4})
        for writer in writers:
            writer.close()
    assert calls == [failing] and len(caught) == 1
    assert [line["loss"] for line in log_lines(tmp_path)] == [0.25, 0.5]


@pytest.mark.parametrize(("name", "nearest"), [("wand", "wandb"), ("tensorbord", "tensorboard")])
def test_unknown_writer_names_the_nearest(name, nearest):
    check_names(["tensorboard", "jsonl"])
    with pytest.raises(InputError, match=f"metric_writers '{name}': did you mean '{nearest}'"):
        check_names(["tensorboard", name])


def test_tensorboard_on_a_full_disk_is_an_error_instead_of_a_wait(tmp_path):
    writer = METRIC_WRITERS["tensorboard"](tmp_path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # like a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            for step in range(100):
                writer.write(step, "train", 0.0, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()
    assert 0 < len(tensorboard_scalars_until_damage(tmp_path)) < 100


def tensorboard_scalars_until_damage(folder):
    """Returns the scalars of the event file; the last event may be cut off."""
    (path,) = (folder / "tensorboard").iterdir()
    return [part for part in path.read_bytes().split(b"train/loss")[1:] if part]
