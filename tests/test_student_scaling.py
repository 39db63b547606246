"""The timing of many students in one program: what runs and how it is summarized, no speed."""

import itertools

import pytest
from support.tiny_network import TINY_NETWORK

from experiments import student_scaling
from kdjax.runtime import compiler


def test_rates_are_relative_to_one_student_in_the_same_round():
    lines = student_scaling.rows("net", {1: [1.0, 2.0, 4.0], 3: [2.0, 2.0, 4.0]}, images=100)
    assert lines == [
        "| net | 1 | 50 | 1.00 (1.00 to 1.00) |",
        "| net | 3 | 150 | 3.00 (1.50 to 3.00) |",
    ]


def test_programs_run_in_turn_and_one_student_is_always_among_them(monkeypatch):
    calls, clock = [], itertools.count()

    def timed_program(one, examples, students):
        return lambda: calls.append(students) or next(clock)

    monkeypatch.setattr(student_scaling, "timed_program", timed_program)
    one = student_scaling.train_spec(TINY_NETWORK, 4, "float32", 2)
    seconds = student_scaling.measure(one, [3, 2], rounds=2)
    assert calls == [1, 2, 3, 1, 2, 3]
    assert seconds == {1: [0, 3], 2: [1, 4], 3: [2, 5]}


@pytest.mark.slow
def test_students_differ_in_their_seed_and_train(monkeypatch):
    for program in compiler.OPTIONS:
        monkeypatch.setitem(compiler.OPTIONS, program, compiler.OPTIONS["initialize"])
    seeds = []
    make_program = student_scaling.multi_student.make_program

    def recording(specs):
        seeds.append([each.seed for each in specs])
        return make_program(specs)

    monkeypatch.setattr(student_scaling.multi_student, "make_program", recording)
    one = student_scaling.train_spec(TINY_NETWORK, 4, "float32", 2)
    train_epoch = student_scaling.timed_program(one, student_scaling.random_examples(8), 2)
    assert train_epoch() > 0 and seeds == [[0, 1]]


def test_the_page_has_the_table_and_its_conditions(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(student_scaling, "measure", lambda *arguments: {1: [1.0], 7: [3.5]})
    monkeypatch.setattr(student_scaling, "tune_allocator", lambda: None)
    arguments = ["x", "--networks", "resnet8", "--batch=8", f"--out={tmp_path / 'page.md'}"]
    monkeypatch.setattr("sys.argv", arguments)
    student_scaling.main()
    page = (tmp_path / "page.md").read_text()
    assert "| resnet8 | 7 | 64 | 2.00 (2.00 to 2.00) |" in page
    assert "batch size 8, float32; medians over 5 rounds of 4 steps" in page
    assert str(tmp_path) not in page and page.strip() in capsys.readouterr().out


def test_an_unknown_network_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--networks", "resnet9"])
    with pytest.raises(SystemExit):
        student_scaling.main()
    assert "invalid choice: 'resnet9'" in capsys.readouterr().err
