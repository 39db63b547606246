"""The log of a network in training: its metric writers and its clock."""

import types

import pytest
from support.logs import frozen_clock, open_log, tensorboard_scalars
from support.runs import log_lines

from kdjax.training.metric_writer import METRIC_WRITERS


@pytest.fixture
def clock(monkeypatch):
    return frozen_clock(monkeypatch)


def test_values_go_to_every_writer_with_step_and_clock(tmp_path, clock):
    with open_log(tmp_path, clock=100.0) as log:
        clock.now += 1.5
        log.write(4, "train", {"loss": 0.5, "accuracy": 0.25})
        log.write(4, "dev", {"accuracy": 0.125})
    assert log_lines(tmp_path) == [
        {"step": 4, "split": "train", "clock": 101.5, "loss": 0.5, "accuracy": 0.25},
        {"step": 4, "split": "dev", "clock": 101.5, "accuracy": 0.125},
    ]
    assert tensorboard_scalars(tmp_path) == [
        (4, "train/loss", 0.5),
        (4, "train/accuracy", 0.25),
        (4, "dev/accuracy", 0.125),
    ]


@pytest.mark.parametrize("cut_line", ["", '{"step": 2, "spl', "{"])
def test_session_after_a_kill_replaces_later_steps(tmp_path, clock, cut_line):
    with open_log(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.write(step, "train", {"loss": step / 4})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(cut_line)
    clock.now += 1
    with open_log(tmp_path, done=2, clock=7.0) as log:
        for step in (3, 4, 5):
            log.write(step, "train", {"loss": step / 8})
    expected = [(1, 0.25), (2, 0.5), (3, 0.375), (4, 0.5), (5, 0.625)]
    assert [(line["step"], line["loss"]) for line in log_lines(tmp_path)] == expected
    assert [(step, value) for step, _, value in tensorboard_scalars(tmp_path)] == expected
    assert [line["clock"] for line in log_lines(tmp_path)] == [0, 0, 7, 7, 7]


def test_a_further_writer_receives_the_same_values(tmp_path, clock, monkeypatch):
    calls = []

    def open_writer(folder, done):
        calls.append((folder, done))
        return types.SimpleNamespace(
            write=lambda *args: calls.append(args), close=lambda: calls.append("closed")
        )

    monkeypatch.setitem(METRIC_WRITERS, "list", open_writer)
    with open_log(tmp_path, done=3, clock=2.0, writers=["list"]) as log:
        log.write(4, "dev", {"nll": 0.5})
    assert calls == [(tmp_path, 3), (4, "dev", 2.0, {"nll": 0.5}), "closed"]
    # JSON lines are always written, TensorBoard only if it is named.
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert [line["nll"] for line in log_lines(tmp_path)] == [0.5]


def test_silent_log_prints_and_writes_nothing(tmp_path, clock, capsys):
    with open_log(tmp_path, silent=True) as log:
        clock.now += 1
        log.write(4, "dev", {"nll": 0.5})
        log.show_epoch(4, {"loss": 0.5})
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def test_title_names_the_student_if_there_are_several(tmp_path, clock):
    for name, title in (("", "student"), ("method=kd", "student method=kd")):
        with open_log(tmp_path, name=name) as log:
            assert log.title == title
