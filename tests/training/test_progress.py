"""The progress of a stage: lines for a file, a bar for a terminal, and the time that is left."""

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console
from support.logs import frozen_clock, make_progress

from kdjax.runtime import compiler
from kdjax.training import progress


@pytest.fixture
def clock(monkeypatch):
    return frozen_clock(monkeypatch)


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output a terminal of 80 columns."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_progress_without_a_terminal_is_a_line_per_epoch(clock, capsys):
    with make_progress() as shown:
        assert not shown.live
        clock.now += 1
        shown.move(2, values={"loss": 1.0})
        clock.now += 1
        shown.show_epoch(4, "", {"loss": 0.123456, "dev_accuracy": 0.5})
        clock.now += 4
        shown.show_epoch(8, "", {"loss": 1234.5})
    assert capsys.readouterr().out.splitlines() == [
        "student  epoch 1/3  loss 0.1235  dev_accuracy 0.5  32 images/s  0:00:04 left",
        "student  epoch 2/3  loss 1234  16 images/s  0:00:04 left",
    ]


def test_lines_of_several_students_begin_with_their_names(clock, capsys):
    with make_progress() as shown:
        clock.now += 2
        for name in ("method=kd", "method=ce"):
            shown.show_epoch(4, name, {"loss": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "method=kd  epoch 1/3  loss 0.5  32 images/s  0:00:04 left",
        "method=ce  epoch 1/3  loss 0.5  32 images/s  0:00:04 left",
    ]


@pytest.mark.parametrize(
    ("seconds", "left"), [(1, "0:00:11"), (3600, "11:00:00"), (5.51, "0:01:01"), (330, "1:00:30")]
)
def test_time_left_is_estimated_from_the_remaining_steps(clock, capsys, seconds, left):
    with make_progress() as shown:
        clock.now += seconds
        shown.show_epoch(1, "", {})
    assert capsys.readouterr().out.endswith(f"  {left} left\n")


def test_speed_counts_this_session_only_and_is_kept_between_steps(clock, capsys):
    with make_progress(done=4) as shown:
        shown.show_epoch(4, "", {})
        clock.now += 2
        shown.show_epoch(8, "", {})
        clock.now += 50  # an evaluation
        shown.show_epoch(8, "", {})
    lines = [line.split("  ")[-2:] for line in capsys.readouterr().out.splitlines()]
    rate = ["32 images/s", "0:00:02 left"]
    assert lines == [["0 images/s", "? left"], rate, rate]


def test_time_of_compilation_is_not_counted(clock, capsys, monkeypatch):
    compiled = [100.0]
    monkeypatch.setattr(progress.compiler, "compile_seconds", lambda: compiled[0])
    with make_progress() as shown:
        compiled[0] += 10
        clock.now += 10 + 2
        shown.show_epoch(4, "", {})
    assert capsys.readouterr().out == "student  epoch 1/3  32 images/s  0:00:04 left\n"


def test_compile_seconds_grow_when_a_program_is_compiled_and_not_when_it_runs():
    before = compiler.compile_seconds()
    function = jax.jit(lambda x: jnp.sin(x) @ x.T + 0.123)
    function(jnp.ones((3, 3))).block_until_ready()
    compiled = compiler.compile_seconds()
    function(jnp.ones((3, 3))).block_until_ready()
    assert before < compiled == compiler.compile_seconds()


def frame(shown):
    """Returns what the bar shows, as lines without trailing spaces."""
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(shown.render())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_bar_moves_within_an_epoch(clock, terminal):
    shown = make_progress()
    assert shown.live
    assert frame(shown)[0].endswith("epoch 1/3 compiling")
    clock.now += 1
    shown.move(1)
    assert frame(shown) == ["student ━╸     epoch 1/3 16 images/s 0:00:11 left"]
    clock.now += 1
    shown.move(2, values={"loss": 0.5, "accuracy": 0.25, "dev_accuracy": 0.75})
    (line,) = frame(shown)
    assert line.endswith("epoch 1/3 dev 0.75 loss 0.5 16 images/s 0:00:10 left")


def test_bar_of_a_new_epoch_starts_at_its_first_step_with_the_speed_of_the_last(clock, terminal):
    shown = make_progress()
    clock.now += 4
    shown.show_epoch(4, "", {})
    full = frame(shown)[0]
    clock.now += 1
    shown.move(5)
    assert full.startswith("student ━━━━━━ epoch 1/3 ")
    assert "epoch 2/3 16 images/s 0:00:07 left" in frame(shown)[0]


def test_bar_of_several_students_has_a_line_for_each(clock, terminal):
    shown = make_progress()
    clock.now += 4
    for name in ("method=kd", "method=ce"):
        shown.show_epoch(4, name, {"dev_accuracy": 0.75, "loss": 0.5})
    lines = frame(shown)
    assert lines[0].endswith("epoch 1/3 16 images/s 0:00:08 left")
    assert lines[1:] == ["  method=kd  dev 0.75  loss 0.5", "  method=ce  dev 0.75  loss 0.5"]


def test_every_line_fits_into_80_columns(clock, terminal):
    shown = make_progress()
    clock.now += 1e-3
    values = {f"a_long_name_of_a_metric_{i}": 0.1234 for i in range(9)}
    for name in ("", "objective.method=ka_gambler_soft,objective.payoff=1.8"):
        shown.show_epoch(4, name, {"loss": 1234.5, "dev_accuracy": 0.9876, **values})
    assert all(len(line) <= 80 for line in frame(shown))
    assert "dev 0.9876 loss 1234" in frame(shown)[0]


def test_notes_begin_with_the_stage(clock, capsys):
    with make_progress() as shown:
        shown.note("a step takes 3 MiB")
    with make_progress(silent=True) as shown:
        shown.note("nothing")
    assert capsys.readouterr().out == "student  a step takes 3 MiB\n"
