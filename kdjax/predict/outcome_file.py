"""Reads what `kdjax predict --csv` or `--json` has printed, with true labels where known."""

import csv
import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from kdjax.errors import InputError, suggestion, unknown_name_error

TRUTH, TIME = "truth", "time"  # columns that the user adds
LABEL, ACCEPTED, SCORE, CONFIDENCE = "label", "accepted", "score", "confidence"
ANSWERED_BY = "answered_by"  # column of a cascade: `student` or `fallback`
# Columns that `kdjax predict` prints.
_PREDICTED = {LABEL, ACCEPTED, SCORE, CONFIDENCE, "path", "index", "abstain", "note", "set"}
_BLOCK = 1 << 20  # bytes
_BATCH = 4096  # rows
_SHOWN = 40  # characters of a wrong value in a message
_MISSING = frozenset({"nan", "none", "null", "na", "n/a"})  # as other programs write no label
_FLAGS: Mapping[Any, bool] = {"true": True, "false": False, "1": True, "0": False}


class Format(NamedTuple):
    """What the rows of a file mean.

    Attributes:
        classes: names of the model's classes.
        truth: name of the column of true labels.
        time: name of the column of times.
        score: whether each row needs a score.
        raw_confidence: whether the column `confidence` is the score, if there is no other.
        least_score: the lowest that the model accepts; None: unknown.
        score_decides: whether the model accepts every image from that score on.
        count_unknown: count true labels of other classes as errors, instead of refusing them.
        named: columns that the user has named and that have to be there.
    """

    classes: Sequence[str]
    truth: str = TRUTH
    time: str = TIME
    score: bool = True
    raw_confidence: bool = False
    least_score: float | None = None
    score_decides: bool = False
    count_unknown: bool = False
    named: frozenset[str] = frozenset()


class Outcome(NamedTuple):
    """A row of a file.

    Attributes:
        line: its number, from 1.
        time: as text; None without one.
        accepted: whether the model accepted the image.
        correct: 1.0 or 0.0; nan without a true label.
        score: what the model compares with its threshold; nan without one.
    """

    line: int
    time: str | None
    accepted: bool
    correct: float
    score: float


class Lines:
    """The lines of a binary file, read as they come, with a checksum of what was read.

    Attributes:
        count: number of lines that were read.
        bytes: their length.
    """

    def __init__(self, file: IO[bytes], name: str, *, complete_only: bool = False) -> None:
        """Starts at the current position of a file.

        Args:
            file: binary, with `read1`.
            name: of the file, for messages.
            complete_only: whether to leave a last line without a line break.
        """
        self._file, self._name, self._complete_only = file, name, complete_only
        self._buffer, self._start, self._ended = b"", 0, False
        self._digest = hashlib.sha256()
        self.count = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not (self._ended or self.waiting):
            block = self._file.read1(_BLOCK)  # type: ignore[attr-defined]
            self._buffer, self._start = self._buffer[self._start :] + block, 0
            self._ended = not block
        end = self._buffer.find(b"\n", self._start) + 1 or len(self._buffer)
        if not self.waiting and (self._complete_only or self._start == end):
            raise StopIteration
        line, self._start = self._buffer[self._start : end], end
        self._digest.update(line)
        self.count, self.bytes = self.count + 1, self.bytes + len(line)
        try:
            return line.decode("utf-8-sig" if self.count == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self._name}, line {self.count}: not UTF-8 text") from None

    @property
    def waiting(self) -> bool:
        """Whether a line can be read without waiting."""
        return self._buffer.find(b"\n", self._start) >= 0

    @property
    def incomplete(self) -> bool:
        """Whether a last line without an end was left."""
        return self._ended and self._start < len(self._buffer)

    @property
    def sha256(self) -> str:
        """SHA-256 of the lines that were read."""
        return self._digest.hexdigest()


def read(
    lines: Lines,
    name: str,
    form: Format,
    *,
    skip: int = 0,
    on_note: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Outcome]]:
    """Yields the rows of a file in batches, as they can be read without waiting.

    A file whose first character is `{` has a JSON object on each line; any other is a CSV file with
    a header.

    Args:
        lines: of the file.
        name: of the file, for messages.
        form: what the rows mean.
        skip: number of bytes at the start that were read before.
        on_note: called with a text if another column seems to have the true labels.

    Raises:
        InputError: with the number of the line, for a row or a header that cannot be understood.
    """
    first = next(lines, "")
    while first.isspace():
        first = next(lines, "")
    as_json = first.startswith("{")
    read_records = _json_records if as_json else _csv_records
    checked: frozenset[str] | None = None
    batch: list[Outcome] = []
    for number, record in read_records(first, lines, name, skip):
        if checked is None or (as_json and checked != record.keys()):
            _check_columns(record, name, number, form)
            if checked is None and (column := _other_truth(record, form)):
                on_note(
                    f"the column {column!r} has a class in its first row and is not read: "
                    f"--truth={column} if it has the true labels"
                )
            checked = frozenset(record)
        try:
            batch.append(_outcome(record, number, form))
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
        if len(batch) >= _BATCH or not lines.waiting:
            yield batch
            batch = []
    if batch:
        yield batch


def _json_records(
    first: str, lines: Lines, name: str, skip: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    line: str | None = first
    while line is not None:
        number = lines.count
        if lines.bytes > skip and line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{name}, line {number}: not JSON ({error})") from None
            if not isinstance(record, dict):
                raise InputError(f"{name}, line {number}: not a JSON object")
            yield number, record
        line = next(lines, None)


def _csv_records(
    first: str, lines: Lines, name: str, skip: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(_chain(first, lines), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(column for column in header if header.count(column) > 1)
            raise InputError(f"{name}: the header has the column {twice!r} twice")
        number = lines.count + 1
        for cells in reader:
            if cells and lines.bytes > skip:
                if len(cells) != len(header):
                    raise InputError(
                        f"{name}, line {number}: {len(cells)} cells, but the header has "
                        f"{len(header)}"
                    )
                yield number, dict(zip(header, cells, strict=True))
            number = lines.count + 1  # of the next row: cells may contain line breaks
    except csv.Error as error:
        raise InputError(f"{name}, line {lines.count}: {error}") from None


def _chain(first: str, lines: Lines) -> Iterator[str]:
    if first:
        yield first
        yield from lines


def _check_columns(record: Mapping[str, Any], name: str, number: int, form: Format) -> None:
    """Checks the names of the columns once for each header.

    Raises:
        InputError: for one that is missing, with the nearest one that is there.
    """
    needed = [LABEL, ACCEPTED, *sorted(form.named)]
    for column in needed:
        if column not in record:
            if column in form.named:
                raise InputError(f"{name}: {unknown_name_error('column', column, record)}")
            raise InputError(
                f"{name}: no column {column!r}{suggestion(column, record)}; it has "
                f"{', '.join(map(repr, record))}; give the output of kdjax predict --csv or --json"
            )
    if ANSWERED_BY in record:
        raise InputError(
            f"{name}, line {number}: column {ANSWERED_BY!r}: these are predictions of a cascade, "
            "but what is promised of the model is about its own predictions"
        )
    if form.score and not _score_column(record, form):
        raise InputError(
            f"{name}, line {number}: no column {SCORE!r}, without which drift cannot be watched; "
            "--watch=risk,coverage leaves it out"
        )
    # With a misspelt name the labels would not be read.
    folded = {other.casefold(): other for other in record}
    near = difflib.get_close_matches(form.truth, folded, n=1, cutoff=0.75)
    if form.truth not in record and near:
        raise InputError(
            f"{name}, line {number}: column {folded[near[0]]!r}: did you mean {form.truth!r}? "
            "--truth=NAME gives another name"
        )


def _other_truth(record: Mapping[str, Any], form: Format) -> str | None:
    """Returns an unknown column with the name of a class, where none has the true labels."""
    if form.truth in record:
        return None
    unknown = [column for column in record if column not in {*_PREDICTED, form.time}]
    return next((column for column in unknown if str(record[column]) in form.classes), None)


def _score_column(record: Mapping[str, Any], form: Format) -> str | None:
    if SCORE in record:
        return SCORE
    return CONFIDENCE if form.raw_confidence and CONFIDENCE in record else None


def _outcome(record: Mapping[str, Any], number: int, form: Format) -> Outcome:
    accepted = _flag(record.get(ACCEPTED))
    column = _score_column(record, form)
    score = _number(record[column], column) if form.score and column else math.nan
    _check_score(accepted, score, form)
    label, truth = _name(record.get(LABEL)), _name(record.get(form.truth))
    if (label is not None or accepted) and label not in form.classes:
        raise unknown_name_error("label", label, form.classes)
    if truth is not None and truth not in form.classes and truth.casefold() in _MISSING:
        raise InputError(
            f"class in {form.truth!r}: {truth!r}: leave the cell empty where the class is unknown"
        )
    if truth is not None and truth not in form.classes and not form.count_unknown:
        raise InputError(
            f"{unknown_name_error(f'class in {form.truth!r}:', truth, form.classes)}; "
            "--count_unknown counts accepted images of classes that the model does not have as "
            "errors"
        )
    time = _name(record.get(form.time))
    return Outcome(
        number, time, accepted, math.nan if truth is None else float(truth == label), score
    )


def _check_score(accepted: bool, score: float, form: Format) -> None:
    """Raises InputError for a decision that is not that of the model, rounding aside."""
    least = form.least_score
    if least is None:
        return
    above, tolerance = score - least, 1e-3 * max(1.0, abs(least))
    wrong = above < -tolerance if accepted else (form.score_decides and above > tolerance)
    if wrong:
        raise InputError(
            f"{'' if accepted else 'not '}accepted with the score {score:.6g}, but the model "
            f"accepts from {least:.6g} on: these are predictions of another model"
        )


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().casefold()
    if text not in _FLAGS:
        raise InputError(f"{ACCEPTED} {value!r}: must be true or false")
    return _FLAGS[text]


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number) or isinstance(value, bool):
        raise InputError(f"{column} {repr(value)[:_SHOWN]}: must be a number")
    return number


def _name(value: Any) -> str | None:
    """Returns the text of a cell; None if it is empty."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{value!r}: must be text")
    return str(value)


def read_before(file: IO[bytes], known: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the longest of known beginnings with which a file begins; None: with none.

    Args:
        file: at its start; it is read.
        known: beginnings by `bytes` and `sha256`.
    """
    digest, position, longest = hashlib.sha256(), 0, None
    for beginning in sorted(known, key=lambda entry: entry["bytes"]):
        part = file.read(beginning["bytes"] - position)
        digest.update(part)
        position += len(part)
        if position < beginning["bytes"]:
            break
        if digest.hexdigest() == beginning["sha256"]:
            longest = beginning
    return longest
