import json
import struct
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX.event_file_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog

from kdjax.report import logs
from kdjax.report.logs import Log
from kdjax.report.recorder import Recorder


@pytest.fixture
def clock(monkeypatch):
    """The seconds of the log and of its event files, which stand still until they are set."""
    clock = types.SimpleNamespace(now=1e9)
    monkeypatch.setattr(logs, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    event_time = types.SimpleNamespace(time=lambda: clock.now)
    monkeypatch.setattr(tensorboardX.event_file_writer, "time", event_time)
    return clock


@pytest.fixture
def start(tmp_path, clock):
    """Starts a session of a stage of 3 epochs of 4 steps of 16 images."""

    def start(done=0, before=0.0):
        return Log(
            tmp_path,
            stage="student",
            steps_per_epoch=4,
            epochs=3,
            batch_size=16,
            done=done,
            clock=before,
        )

    return start


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(folder):
    """What TensorBoard shows: later sessions hide what earlier ones wrote of their steps."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content)
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                found = [scalar for scalar in found if scalar[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


# metrics.jsonl and TensorBoard's events


def test_every_value_is_a_line_and_a_scalar_with_its_step(tmp_path, start, clock):
    with start(before=100.0) as log:
        clock.now += 1.5
        log.write(4, "train", {"loss": 0.5, "accuracy": 0.25})
        log.write(4, "dev", {"accuracy": 0.125})
        assert lines(tmp_path)[0] == {
            **{"step": 4, "split": "train", "clock": 101.5},
            **{"loss": 0.5, "accuracy": 0.25},
        }  # before the log is closed: a kill loses nothing
    assert lines(tmp_path)[1:] == [{"step": 4, "split": "dev", "clock": 101.5, "accuracy": 0.125}]
    assert curves(tmp_path) == [
        (4, "train/loss", 0.5),
        (4, "train/accuracy", 0.25),
        (4, "dev/accuracy", 0.125),
    ]


@pytest.mark.parametrize("cut", ["", '{"step": 2, "spl', "{"])
def test_a_session_after_a_kill_drops_later_and_cut_lines(tmp_path, start, clock, cut):
    with start() as log:
        for step in (1, 2, 3, 4):
            log.write(step, "train", {"loss": step / 4})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(cut)
    clock.now += 1
    with start(done=2, before=7.0) as log:
        for step in (3, 4, 5):
            log.write(step, "train", {"loss": step / 8})
    expected = [(1, 0.25), (2, 0.5), (3, 0.375), (4, 0.5), (5, 0.625)]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == expected
    assert [(step, value) for step, _, value in curves(tmp_path)] == expected
    assert [line["clock"] for line in lines(tmp_path)] == [0, 0, 7, 7, 7]


# The line


def test_off_a_terminal_an_epoch_is_a_plain_line(start, clock, capsys):
    with start() as log:
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
def test_the_time_left_is_that_of_the_steps_to_come(start, clock, capsys, seconds, left):
    with start() as log:
        clock.now += seconds
        log.show(1, {})
    assert capsys.readouterr().out.endswith(f"  {left} left\n")


def test_the_speed_counts_this_session_alone_and_is_kept_between_steps(start, clock, capsys):
    with start(done=4, before=1000.0) as log:
        log.show(4, {})
        clock.now += 2
        log.show(8, {})
        clock.now += 50  # an evaluation
        log.show(8, {})
    found = [line.split("  ")[-2:] for line in capsys.readouterr().out.splitlines()]
    rate = ["32 images/s", "0:00:02 left"]
    assert found == [["0 images/s", "? left"], rate, rate]


# The recorder, and the bar


@pytest.fixture
def recorder(start, clock):
    """Starts a recorder whose learning rate is the step it is asked for."""
    with start() as log:
        clock.now += 1

        def start_recorder(every, kept=()):
            checkpoints = types.SimpleNamespace(steps=lambda: list(kept), folder="run/checkpoints")
            return Recorder(log, checkpoints, every=every, rate=lambda step: step)

        yield start_recorder


def run(recorder, counts, done=0):
    """Adds calls of so many steps each; the loss of a step is its number."""
    for count in counts:
        losses = jnp.arange(done + 1, done + count + 1, dtype=jnp.float32)
        done += count
        recorder.add(done, {"loss": losses, "accuracy": losses / 64})


@pytest.mark.parametrize(
    ("counts", "every", "groups"),
    [
        ([1] * 7, 3, [[1, 2, 3], [4, 5, 6], [7]]),
        ([1] * 4, 1, [[1], [2], [3], [4]]),
        ([5, 5, 2], 4, [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]),
        ([2, 2, 2], 100, [[1, 2, 3, 4, 5, 6]]),
    ],
)
def test_a_line_holds_the_means_of_the_steps_since_the_last(
    tmp_path, recorder, counts, every, groups
):
    found = recorder(every)
    run(found, counts)
    found.flush()
    found.flush()  # nothing is held any more
    for line, steps in zip(lines(tmp_path), groups, strict=True):
        assert (line["step"], line["split"]) == (steps[-1], "train")
        assert line["loss"] == np.mean(steps)
        assert line["accuracy"] == np.mean(steps) / 64
        assert line["learning_rate"] == steps[-1] - 1


def test_means_are_taken_in_double_precision(tmp_path, recorder):
    found = recorder(every=4)
    found.add(4, {"loss": jnp.array([2.0**24, 1, 1, 1], jnp.float32)})
    assert lines(tmp_path)[0]["loss"] == (2**24 + 3) / 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kept", "last"), [([], "none yet"), ([100, 104], "step 104 in run/checkpoints")]
)
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, recorder, bad, kept, last):
    found = recorder(every=3, kept=kept)
    run(found, [1] * 5, done=104)
    poisoned = {"loss": [110.0, bad, bad], "accuracy": [0.5, 0.25, 1.0]}
    with pytest.raises(FloatingPointError) as raised:
        found.add(112, {name: jnp.array(values) for name, values in poisoned.items()})
    assert str(raised.value) == (
        f"the student's loss is not finite at step 111: loss {bad}, accuracy 0.25; "
        f"last good checkpoint: {last}; a lower student.learning_rate may help"
    )
    assert [line["step"] for line in lines(tmp_path)] == [107]


def test_dev_metrics_are_logged_and_shown_beside_those_of_train(tmp_path, recorder, capsys):
    found = recorder(every=4)
    run(found, [4])
    assert capsys.readouterr().out == ""  # one line an epoch
    found.dev(4, {"accuracy": 0.75, "nll": 0.5, "aurc": 0.125})
    line = lines(tmp_path)[1]
    assert {key: line[key] for key in ("step", "split", "accuracy", "nll", "aurc")} == {
        **{"step": 4, "split": "dev"},
        **{"accuracy": 0.75, "nll": 0.5, "aurc": 0.125},
    }
    assert "epoch 1/3  loss 2.5  accuracy 0.03906  dev_accuracy 0.75  " in capsys.readouterr().out


def test_on_a_terminal_a_bar_moves_with_every_line_of_the_log(start, clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with start() as log:
        assert log.live
        clock.now += 1
        run(Recorder(log, None, every=2, rate=float), [1, 1])
    out = capsys.readouterr().out
    assert "student" in out and "epoch 1/3  loss 1.5" in out and "0:00:05 left" in out
