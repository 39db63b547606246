"""The log of a stage: its metric writers, its clock and its progress line."""

import types

import pytest
from support.logs import frozen_clock, open_log, tensorboard_scalars
from support.runs import log_lines

from kdjax.training import stage_log


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

    monkeypatch.setattr(stage_log, "METRIC_WRITERS", {"list": open_writer})
    with open_log(tmp_path, done=3, clock=2.0) as log:
        log.write(4, "dev", {"nll": 0.5})
    assert calls == [(tmp_path, 3), (4, "dev", 2.0, {"nll": 0.5}), "closed"]
    assert list(tmp_path.iterdir()) == []


def test_silent_log_prints_and_writes_nothing(tmp_path, clock, capsys):
    with open_log(tmp_path, silent=True) as log:
        clock.now += 1
        log.write(4, "dev", {"nll": 0.5})
        log.show(4, {"loss": 0.5})
        log.note("a note")
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def test_progress_without_a_terminal_is_a_line_per_epoch(tmp_path, clock, capsys):
    with open_log(tmp_path) as log:
        assert not log.live
        clock.now += 2
        log.show(4, {"loss": 0.123456, "dev_accuracy": 0.5})
        clock.now += 4
        log.show(8, {"loss": 1234.5})
    assert capsys.readouterr().out.splitlines() == [
        "student  epoch 1/3  loss 0.1235  dev_accuracy 0.5  32 images/s  0:00:04 left",
        "student  epoch 2/3  loss 1234  16 images/s  0:00:04 left",
    ]


@pytest.mark.parametrize(
    ("seconds", "left"), [(1, "0:00:11"), (3600, "11:00:00"), (5.51, "0:01:01"), (330, "1:00:30")]
)
def test_time_left_is_estimated_from_the_remaining_steps(tmp_path, clock, capsys, seconds, left):
    with open_log(tmp_path) as log:
        clock.now += seconds
        log.show(1, {})
    assert capsys.readouterr().out.endswith(f"  {left} left\n")


def test_speed_counts_this_session_only_and_is_kept_between_steps(tmp_path, clock, capsys):
    with open_log(tmp_path, done=4, clock=1000.0) as log:
        log.show(4, {})
        clock.now += 2
        log.show(8, {})
        clock.now += 50  # an evaluation
        log.show(8, {})
    shown = [line.split("  ")[-2:] for line in capsys.readouterr().out.splitlines()]
    rate = ["32 images/s", "0:00:02 left"]
    assert shown == [["0 images/s", "? left"], rate, rate]
