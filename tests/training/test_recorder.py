"""The recorder: means of the steps between log lines, and the check for finite losses."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from support.logs import frozen_clock, open_log
from support.runs import log_lines

from kdjax.training.recorder import Recorder


@pytest.fixture
def clock(monkeypatch):
    return frozen_clock(monkeypatch)


@pytest.fixture
def make_recorder(tmp_path, clock):
    """Returns a function that makes a recorder with learning rate s at step s."""
    with open_log(tmp_path) as log:
        clock.now += 1

        def make(every, saved_steps=()):
            checkpoints = types.SimpleNamespace(
                steps=lambda: list(saved_steps), folder="run/checkpoints"
            )
            return Recorder(log, checkpoints, every=every, learning_rate=lambda step: step)

        yield make


def add_calls(recorder, counts, done=0):
    """Adds calls with these numbers of steps; the loss of a step is its number."""
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
        ([6, 5], 2, [[1, 2], [3, 4], [5, 6], [7, 8, 9], [10, 11]]),
    ],
)
def test_log_line_holds_the_means_since_the_previous_line(
    tmp_path, make_recorder, counts, every, groups
):
    recorder = make_recorder(every)
    add_calls(recorder, counts)
    recorder.flush()
    recorder.flush()  # nothing is buffered any more
    for line, steps in zip(log_lines(tmp_path), groups, strict=True):
        assert (line["step"], line["split"]) == (steps[-1], "train")
        assert line["loss"] == np.mean(steps)
        assert line["accuracy"] == np.mean(steps) / 64
        assert line["learning_rate"] == steps[-1] - 1


def test_means_are_computed_in_double_precision(tmp_path, make_recorder):
    recorder = make_recorder(every=4)
    recorder.add(4, {"loss": jnp.array([2.0**24, 1, 1, 1], jnp.float32)})
    assert log_lines(tmp_path)[0]["loss"] == (2**24 + 3) / 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("saved_steps", "last"), [([], "none yet"), ([100, 104], "step 104 in run/checkpoints")]
)
def test_non_finite_loss_raises_with_step_terms_and_last_checkpoint(
    tmp_path, make_recorder, bad, saved_steps, last
):
    recorder = make_recorder(every=3, saved_steps=saved_steps)
    add_calls(recorder, [1] * 5, done=104)
    metrics = {"loss": [110.0, bad, bad], "accuracy": [0.5, 0.25, 1.0]}
    with pytest.raises(FloatingPointError) as raised:
        recorder.add(112, {name: jnp.array(values) for name, values in metrics.items()})
    assert str(raised.value) == (
        f"the student's loss is not finite at step 111: loss {bad}, accuracy 0.25; "
        f"last good checkpoint: {last}; a lower student.learning_rate may help"
    )
    assert [line["step"] for line in log_lines(tmp_path)] == [107]


def test_dev_metrics_are_logged_and_shown_with_those_of_train(tmp_path, make_recorder, capsys):
    recorder = make_recorder(every=4)
    add_calls(recorder, [4])
    assert capsys.readouterr().out == ""  # one line per epoch
    recorder.record_dev(4, {"accuracy": 0.75, "nll": 0.5, "aurc": 0.125})
    line = log_lines(tmp_path)[1]
    assert {key: line[key] for key in ("step", "split", "accuracy", "nll", "aurc")} == {
        **{"step": 4, "split": "dev"},
        **{"accuracy": 0.75, "nll": 0.5, "aurc": 0.125},
    }
    assert "epoch 1/3  loss 2.5  accuracy 0.03906  dev_accuracy 0.75  " in capsys.readouterr().out


def test_progress_bar_on_a_terminal_shows_the_metrics_of_every_log_line(
    tmp_path, clock, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with open_log(tmp_path) as log:
        assert log.live
        clock.now += 1
        add_calls(Recorder(log, None, every=2, learning_rate=float), [1, 1])
    out = capsys.readouterr().out
    assert "student" in out and "epoch 1/3 loss 1.5" in out and "0:00:05 left" in out


def test_progress_bar_moves_to_the_last_step_that_the_device_has_finished():
    moves = []
    log = types.SimpleNamespace(live=True, move=moves.append)
    recorder = Recorder(log, None, every=100, learning_rate=float)
    losses = [Loss(), Loss(), Loss()]
    recorder.add(1, {"loss": losses[0]})
    assert moves == []
    losses[0].ready = True
    recorder.add(2, {"loss": losses[1]})
    losses[1].ready = True
    recorder.add(3, {"loss": losses[2]})
    assert moves == [1, 2]


class Loss:
    """The loss of one step, which the device computes until `ready` is set."""

    ready = False

    def is_ready(self):
        return self.ready

    def __len__(self):
        return 1
