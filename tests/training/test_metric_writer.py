"""The metric writers: what they write, and how they continue after a kill."""

import pytest
from support.logs import frozen_clock, tensorboard_scalars
from support.runs import log_lines

from kdjax.training.metric_writer import METRIC_WRITERS, JsonLinesWriter, TensorBoardWriter


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


@pytest.mark.parametrize("name", METRIC_WRITERS)
def test_every_writer_opens_a_new_and_an_existing_folder(name, tmp_path, clock):
    for done in (0, 1):
        writer = METRIC_WRITERS[name](tmp_path, done)
        writer.write(done + 1, "train", 0.5, {"loss": 0.25})
        writer.close()
        clock.now += 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(path.stat().st_size for path in written)
