"""The timing of many students in one program: what runs and how it is summarized, no speed."""

import itertools

import pytest
from support.tiny_network import TINY_NETWORK

from experiments import student_scaling
from experiments.student_scaling import ALONE, Variant
from kdjax.runtime import compiler


def test_rates_are_relative_to_one_student_in_the_same_round():
    seconds = {ALONE: [1.0, 2.0, 4.0], Variant(3, "vmapped"): [2.0, 2.0, 4.0]}
    assert student_scaling.rows("net", "bfloat16", seconds, images=100) == [
        "| net | bfloat16 | 1 | - | 50 | 1.00 (1.00 to 1.00) |",
        "| net | bfloat16 | 3 | vmapped | 150 | 3.00 (1.50 to 3.00) |",
    ]


def test_programs_run_in_turn_and_one_student_is_always_among_them(monkeypatch):
    calls, clock = [], itertools.count()

    def timed_program(one, examples, variant):
        return lambda: calls.append(variant) or next(clock)

    monkeypatch.setattr(student_scaling, "timed_program", timed_program)
    one = student_scaling.train_spec(TINY_NETWORK, 4, "float32", 2)
    seconds = student_scaling.measure(one, [3], rounds=2)
    variants = [ALONE, Variant(3, "separate"), Variant(3, "vmapped")]
    assert calls == 2 * variants
    assert seconds == dict(zip(variants, [[0, 3], [1, 4], [2, 5]], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["separate", "vmapped"])
def test_students_differ_in_their_seed_and_train(layers, monkeypatch):
    for program in compiler.OPTIONS:
        monkeypatch.setitem(compiler.OPTIONS, program, compiler.OPTIONS["initialize"])
    made = []
    make_program = student_scaling.multi_student.make_program

    def recording(specs, *, stacked):
        made.append(([each.seed for each in specs], stacked))
        return make_program(specs, stacked=stacked)

    monkeypatch.setattr(student_scaling.multi_student, "make_program", recording)
    one = student_scaling.train_spec(TINY_NETWORK, 4, "float32", 2)
    variant = Variant(2, layers)
    train_epoch = student_scaling.timed_program(one, student_scaling.random_examples(8), variant)
    assert train_epoch() > 0 and made == [([0, 1], layers == "vmapped")]


def test_the_page_has_the_table_and_its_conditions(monkeypatch, tmp_path, capsys):
    seven = Variant(7, "separate")
    monkeypatch.setattr(student_scaling, "measure", lambda *arguments: {ALONE: [1.0], seven: [3.5]})
    monkeypatch.setattr(student_scaling, "tune_allocator", lambda: None)
    arguments = ["x", "--networks", "resnet8", "--batch=8", f"--out={tmp_path / 'page.md'}"]
    monkeypatch.setattr("sys.argv", arguments)
    student_scaling.main()
    page = (tmp_path / "page.md").read_text()
    assert "| resnet8 | float32 | 7 | separate | 64 | 2.00 (2.00 to 2.00) |" in page
    assert "batch size 8; medians over 5 rounds of 4 steps" in page
    assert str(tmp_path) not in page and page.strip() in capsys.readouterr().out


def test_an_unknown_network_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--networks", "resnet9"])
    with pytest.raises(SystemExit):
        student_scaling.main()
    assert "invalid choice: 'resnet9'" in capsys.readouterr().err
