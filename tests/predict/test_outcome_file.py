"""Files of predictions with true labels: what is read, and one-line errors."""

import io
import json
import math
import os

import pytest
from support import colours, monitored

from kdjax.errors import InputError
from kdjax.predict import outcome_file
from kdjax.predict.outcome_file import Format, Lines

FORM = Format(colours.CLASSES)


def read(content, form=FORM, **options):
    """Returns all rows of a file, and its lines."""
    lines = Lines(io.BytesIO(content if isinstance(content, bytes) else content.encode()), "f")
    batches = list(outcome_file.read(lines, "f", form, **options))
    return [row for batch in batches for row in batch], lines


def error_of(content, form=FORM):
    with pytest.raises(InputError) as raised:
        read(content, form)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_csv_and_json_lines_give_the_same_rows(tmp_path):
    results = monitored.rows(50)
    of_csv, _ = read((tmp_path / monitored.write_csv(tmp_path / "a", results)).read_bytes())
    of_json, _ = read((tmp_path / monitored.write_json(tmp_path / "b", results)).read_bytes())
    assert [row.line for row in of_csv] == list(range(2, 52))
    assert [row.line for row in of_json] == list(range(1, 51))
    for a, b, result in zip(of_csv, of_json, results, strict=True):
        assert (a.accepted, a.score, a.time) == (b.accepted, b.score, b.time)
        assert (a.accepted, a.score) == (result["accepted"], result["score"])
        assert math.isnan(a.correct) == math.isnan(b.correct) == (result["truth"] is None)
        if result["truth"]:
            assert a.correct == b.correct == (result["truth"] == result["label"])


def test_what_spreadsheets_and_other_tools_write_is_read():
    content = (
        b'\xef\xbb\xbfnote,label,accepted,score,truth\r\n"a\r\nb",red,True,1,red\r\n'
        b"\r\n,red,FALSE,-1,\r\n,red,1,inf,green\r\n"
    )
    rows, lines = read(content)
    assert [(row.line, row.accepted, row.score) for row in rows] == [
        (2, True, 1.0),
        (5, False, -1.0),
        (6, True, math.inf),
    ]
    assert [row.correct for row in rows[::2]] == [1, 0] and math.isnan(rows[1].correct)
    assert lines.count == 6 and lines.bytes == len(content)


def test_json_needs_no_label_where_the_model_abstains():
    rows, _ = read('\n{"label": null, "accepted": false, "score": 0, "truth": NaN}\n\n')
    assert [(row.line, row.accepted) for row in rows] == [(2, False)]


def test_class_names_that_look_like_numbers_are_text():
    form = Format(("0", "1"))
    rows, _ = read('{"label": "1", "accepted": true, "score": 1, "truth": 1}', form)
    assert rows[0].correct == 1


def test_other_names_of_columns_are_used():
    form = Format(colours.CLASSES, truth="y", time="t", named=frozenset("yt"))
    rows, _ = read("label,accepted,score,y,t\nred,true,1,red,noon\n", form)
    assert (rows[0].correct, rows[0].time) == (1, "noon")


def test_confidence_stands_for_the_score_only_where_it_is_the_same():
    content = "label,accepted,confidence\nred,true,0.7\n"
    rows, _ = read(content, FORM._replace(raw_confidence=True))
    assert rows[0].score == 0.7
    assert "no column 'score', without which drift cannot be watched" in error_of(content)
    rows, _ = read(content, FORM._replace(score=False))
    assert math.isnan(rows[0].score)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (
            "label,accept,score\nred,true,1\n",
            "f: no column 'accepted': did you mean 'accept'?; it ",
        ),
        (
            "path;accepted\na;true\n",
            "f: no column 'label'; it has 'path;accepted'; give the output",
        ),
        ("label,label\nred,red\n", "f: the header has the column 'label' twice"),
        ("label,accepted,score\nred,true\n", "f, line 2: 2 cells, but the header has 3"),
        ("label,accepted,score\nred,maybe,1\n", "f, line 2: accepted 'maybe': must be true or f"),
        ("label,accepted,score\nred,true,high\n", "f, line 2: score 'high': must be a number"),
        ("label,accepted,score\nred,true,nan\n", "f, line 2: score 'nan': must be a number"),
        ("label,accepted,score\nrad,true,1\n", "unknown label 'rad': did you mean 'red'?"),
        ("label,accepted,score,truth\nred,true,1,gren\n", "'gren': did you mean 'green'? Valid: b"),
        ("label,accepted,score,Truth\nred,true,1,red\n", "column 'Truth': did you mean 'truth'?"),
        ("label,accepted,score,thruth\nred,true,1,red\n", "'thruth': did you mean 'truth'?"),
        ('label,accepted,score\n"red,true,1\n', "f, line 2: unexpected end of data"),
        (b"label,accepted,score\nr\xe9d,true,1\n", "f, line 2: not UTF-8 text"),
        (
            "label,accepted,score,answered_by\nred,true,1,student\n",
            "'answered_by': these are predictions of a cascade",
        ),
        ('{"label": "red"\n', "f, line 1: not JSON"),
        ('{"label": ' + "[" * 100_000 + "\n", "f, line 1: not JSON"),
        (
            '{"label": "red", "accepted": true, "score": 1' + "0" * 400 + "}\n",
            f"f, line 1: score 1{'0' * 39}: must be a number",
        ),
        ('{"label": "red", "accepted": true, "score": 1}\n[1]\n', "f, line 2: not a JSON object"),
        ('{"label": "red", "accepted": null, "score": 1}\n', "f, line 1: accepted None: must be"),
        ('{"label": "red", "accepted": true, "score": true}\n', "score True: must be a number"),
        ('{"label": ["red"], "accepted": true, "score": 1}\n', "line 1: ['red']: must be text"),
        ('{"label": null, "accepted": true, "score": 1}\n', "unknown label None"),
        (
            '{"label": "red", "accepted": true, "score": 1}\n{"label": "red", "accepted": true}\n',
            "f, line 2: no column 'score'",
        ),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_line(content, part):
    assert part in error_of(content)


def test_a_column_that_was_named_has_to_be_there():
    form = FORM._replace(truth="answer", named=frozenset({"answer"}))
    line = error_of("label,accepted,score,answers\nred,true,1,red\n", form)
    assert "unknown column 'answer': did you mean 'answers'?" in line


def test_predictions_of_another_model_are_refused():
    form = FORM._replace(least_score=2.0)
    assert "accepted with the score 1, but the model accepts from 2 on" in error_of(
        "label,accepted,score\nred,true,1\n", form
    )
    rows, _ = read("label,accepted,score\nred,true,1.9999\nred,false,3\n", form)  # rounding; a gate
    assert len(rows) == 2
    form = form._replace(score_decides=True)
    assert "not accepted with the score 3, but the model accepts from 2 on" in error_of(
        "label,accepted,score\nred,true,2\nred,false,3\n", form
    )
    rows, _ = read("label,accepted,score\nred,false,2.0001\nred,false,-inf\n", form)
    assert len(rows) == 2


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "null", "NULL", "NA", "N/A"])
@pytest.mark.parametrize("count_unknown", [False, True])
def test_texts_for_a_missing_label_are_refused(text, count_unknown):
    content = f"label,accepted,score,truth\nred,true,1,red\nred,true,1,{text}\n"
    line = error_of(content, FORM._replace(count_unknown=count_unknown))
    assert line.startswith(f"f, line 3: class in 'truth': {text!r}: leave the cell empty")
    rows, _ = read(content, Format(("red", text), count_unknown=count_unknown))
    assert rows[1].correct == 0


@pytest.mark.parametrize(
    ("content", "column"),
    [
        ("label,accepted,score,path,true_label\nred,true,1,a,green\n", "true_label"),
        ('{"label": "red", "accepted": true, "score": 1, "x": 1, "y": "blue"}\n', "y"),
        ("label,accepted,score,note,y\nred,true,1,red,violet\n", None),
        ("label,accepted,score,truth,y\nred,true,1,,red\n", None),
        ("label,accepted,score,time\nred,true,1,red\n", None),
    ],
)
def test_a_column_with_a_class_is_noted_where_none_has_the_true_labels(content, column):
    notes = []
    read(content, on_note=notes.append)
    assert [note.partition("--truth=")[2].partition(" ")[0] for note in notes] == (
        [column] if column else []
    )


def test_labels_of_other_classes_are_errors_if_they_are_counted():
    content = "label,accepted,score,truth\nred,true,1,violet\n"
    assert "--count_unknown counts accepted images" in error_of(content)
    rows, _ = read(content, FORM._replace(count_unknown=True))
    assert rows[0].correct == 0


def test_lines_are_read_as_they_come_through_a_pipe():
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as file, os.fdopen(sink, "wb", buffering=0) as pipe:
        batches = outcome_file.read(Lines(file, "pipe"), "pipe", FORM)
        pipe.write(b"label,accepted,score\nred,true,1\nred,")
        assert [row.line for row in next(batches)] == [2]
        pipe.write(b"false,0\n")
        assert [row.line for row in next(batches)] == [3]
        pipe.close()
        assert list(batches) == []


def test_a_file_of_any_number_of_rows_is_read_in_batches():
    line = json.dumps({"label": "red", "accepted": True, "score": 1}) + "\n"
    lines = Lines(io.BytesIO(10_000 * line.encode()), "f")
    sizes = list(map(len, outcome_file.read(lines, "f", FORM)))
    assert sum(sizes) == 10_000 and max(sizes) == 4096
    assert read("")[0] == [] and read("label,accepted,score\n")[0] == []


def test_beginning_that_was_read_before_is_recognized():
    first, more = b"label,accepted,score\nred,true,1\n", b"red,true,2\n"
    _, lines = read(first)
    known = [{"bytes": lines.bytes, "sha256": lines.sha256, "lines": 2}]
    found = outcome_file.read_before(io.BytesIO(first + more), known)
    assert found == known[0]
    rows, after = read(first + more, skip=found["bytes"])
    assert [(row.line, row.score) for row in rows] == [(3, 2.0)]
    known.append({"bytes": after.bytes, "sha256": after.sha256, "lines": 3})
    assert outcome_file.read_before(io.BytesIO(first + more), known) == known[1]
    assert outcome_file.read_before(io.BytesIO(first), known) == known[0]
    for other in (b"", first[:-1], first.replace(b"1", b"2") + more):
        assert outcome_file.read_before(io.BytesIO(other), known) is None


def test_lines_that_were_read_before_are_not_parsed_again():
    before = b"{not JSON\n[1]\n\n"
    after = b'{"label": "red", "accepted": true, "score": 1}\n'
    rows, lines = read(before + after, skip=len(before))
    assert [row.line for row in rows] == [4] and lines.bytes == len(before + after)


def test_a_last_line_without_an_end_is_left_if_it_may_go_on():
    content = b"label,accepted,score\nred,true,1\nred,tr"
    lines = Lines(io.BytesIO(content), "f", complete_only=True)
    (batch,) = outcome_file.read(lines, "f", FORM)
    assert len(batch) == 1 and lines.incomplete and lines.bytes == len(content) - 6
    rows, lines = read(b"label,accepted,score\nred,true,1")
    assert len(rows) == 1 and not lines.incomplete
