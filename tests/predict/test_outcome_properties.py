"""Files of any content, read in blocks of any size, give the rows that were written."""

import csv
import hashlib
import io
import json
import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import colours

from kdjax.predict import outcome_file
from kdjax.predict.outcome_file import Format, Lines

FORM = Format(colours.CLASSES)
# Names of files and notes may contain all that CSV and JSON treat specially.
TEXT = st.text(alphabet=string.ascii_letters + " ,;\"'\n{}[]äß→", max_size=12)
ROW = st.fixed_dictionaries(
    {
        "path": TEXT,
        "label": st.sampled_from(colours.CLASSES),
        "accepted": st.booleans(),
        "score": st.floats(allow_nan=False, width=32),
        "note": TEXT,
        "truth": st.sampled_from([None, *colours.CLASSES]),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=8)


class Blocks:
    """A binary file that gives at most `size` bytes at once, as a slow pipe does."""

    def __init__(self, content, size):
        self.file, self.size = io.BytesIO(content), size

    def read1(self, _):
        return self.file.read(self.size)


def to_csv(rows, end):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_json(rows, end):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def read(content, size=1 << 20, **options):
    lines = Lines(Blocks(content, size), "f")
    batches = list(outcome_file.read(lines, "f", FORM, **options))
    return [row for batch in batches for row in batch], lines


def assert_same(read_rows, rows):
    assert len(read_rows) == len(rows)
    for outcome, row in zip(read_rows, rows, strict=True):
        assert (outcome.accepted, outcome.score) == (row["accepted"], row["score"])
        if row["truth"] is None:
            assert math.isnan(outcome.correct)
        else:
            assert outcome.correct == (row["truth"] == row["label"])


@pytest.mark.slow
@given(rows=ROWS, size=st.integers(1, 50), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_rows_are_read_as_they_were_written(rows, size, end):
    for write in (to_csv, to_json):
        content = write(rows, end)
        found, lines = read(content, size)
        assert_same(found, rows)
        assert lines.bytes == len(content) and not lines.incomplete
        assert lines.sha256 == hashlib.sha256(content).hexdigest()


@given(rows=ROWS, more=ROWS, size=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_of_a_file_that_has_grown_only_the_new_rows_are_read(rows, more, size):
    for write in (to_csv, to_json):
        old, new = write(rows, "\n"), write([*rows, *more], "\n")
        _, lines = read(old)
        known = [{"bytes": lines.bytes, "sha256": lines.sha256}]
        beginning = outcome_file.read_before(io.BytesIO(new), known)
        assert beginning == known[0]
        found, after = read(new, size, skip=beginning["bytes"])
        assert_same(found, more)
        everything, _ = read(new)
        assert [row.line for row in everything[len(rows) :]] == [row.line for row in found]
        assert after.bytes == len(new)


@given(rows=ROWS, cut=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_a_json_file_that_is_cut_anywhere_loses_no_row_when_it_is_complete(rows, cut):
    content = to_json(rows, "\n")
    part = content[: min(cut, len(content))]
    lines = Lines(io.BytesIO(part), "f", complete_only=True)
    first = [row for batch in outcome_file.read(lines, "f", FORM) for row in batch]
    assert len(first) == part.count(b"\n")
    found, _ = read(content, skip=lines.bytes)
    assert_same([*first, *found], rows)
