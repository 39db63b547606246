"""Tables and lines of text on the terminal."""

from kdjax.report import terminal


def test_lines_are_wrapped_but_not_before_a_percent_sign():
    words = ["word"] * 17 + ["1234", "%", "end"]
    lines = [line.plain for line in terminal.notes(" ".join(words))]
    assert len(lines) == 2 and max(map(len, lines)) <= terminal.MIN_WIDTH - 10
    assert " ".join(lines) == " ".join(words)
    assert not any(line.startswith("%") for line in lines)
    assert [line.plain for line in terminal.notes("", "a", "b")] == ["a", "b"]


def test_a_table_is_printed_in_full_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = terminal.table("title", "name", *(f"column {i}" for i in range(20)))
    table.add_row("x", *map(str, range(20)))
    terminal.show(table, "a line")
    lines = capsys.readouterr().out.splitlines()
    (heading,) = [line for line in lines if "column 19" in line]
    assert "column 0" in heading and lines[-1] == "a line"
    assert [column.justify for column in table.columns[:2]] == ["left", "right"]


def test_shares_are_in_percent_with_two_digits():
    assert terminal.percent(0.12345) == "12.35" and terminal.percent(None) == "-"
