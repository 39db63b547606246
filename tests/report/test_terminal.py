"""Tables and lines of text on the terminal."""

import pytest

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


def test_a_report_is_a_table_of_plain_text_and_whole_lines(capsys):
    line = "word " * 60
    rows = [("[red]a[/red]", "b", "1"), ("c", "d", "1,000")]
    terminal.show_report("file[1].csv", ["name", "kind", "count"], rows, [line, "[b]"], left=2)
    *table, first, second = capsys.readouterr().out.splitlines()
    assert (first, second) == (line, "[b]") and table[0].strip() == "file[1].csv"
    cells = [row.split("│")[1:-1] for row in table if row.startswith("│")]
    assert [name.strip() for name, *_ in cells] == ["[red]a[/red]", "c"]
    assert cells[0][1:] == [" b    ", "     1 "] and cells[1][2] == " 1,000 "


@pytest.mark.parametrize("path", ["/data/[exp]/run", "/data/[/b]", "[red]x", "a:smile:b"])
def test_titles_headings_and_cells_are_printed_as_they_are(path, capsys):
    table = terminal.table(path, path)
    table.add_row(path)
    terminal.show(table)
    assert capsys.readouterr().out.count(path) == 3


def test_shares_are_in_percent_with_two_digits():
    assert terminal.percent(0.12345) == "12.35" and terminal.percent(None) == "-"
