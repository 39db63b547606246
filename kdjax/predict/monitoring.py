"""Watches the predictions of an exported model: reads them, advances the tests, reports."""

import copy
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np

from kdjax.errors import InputError, Preempted
from kdjax.evaluation.promises import words
from kdjax.export import card
from kdjax.paths import user_path
from kdjax.predict import monitor_state, outcome_file
from kdjax.predict.monitor_settings import Settings, format_of, monitor_of
from kdjax.predict.outcome_file import Lines, Outcome
from kdjax.selective.monitor import COVERAGE, DRIFT, RISK

STDIN = "-"
POINTS = 1024  # of the history at most
# Attributes of a session that a state holds, besides the monitor.
_STORED = ("places", "history", "stride", "files", "labelled", "last")
# Settings that say how true labels are read, as in a state of a version that did not store them.
_LABELS = {"truth": outcome_file.TRUTH, "count_unknown": False}


class Session:
    """A monitor with the lines that it has read.

    Attributes:
        monitor: with the tests.
        not_watched: why a test is not watched, by name.
        places: where the first alarm of each test was raised: `file`, `line` and `time`.
        history: `[example, time, log wealth of each test ...]`, at most `POINTS`.
        stride: number of examples between two of them.
        files: beginnings of files that were read: `name`, `bytes`, `sha256` and `lines`.
        labelled: number of examples with a true label.
        last: place of the last example.
        complete: the state after the last rows that were read; None before any. An interruption may
            leave the other attributes with a part of the next rows.
    """

    def __init__(self, model_card: Mapping[str, Any], settings: Settings) -> None:
        """Raises InputError for settings that are out of range or contradict each other."""
        self.monitor, self.not_watched = monitor_of(model_card, settings)
        self.form = format_of(model_card, settings, score=DRIFT in self.monitor.bounds)
        self.places: dict[str, dict[str, Any]] = {}
        self.history: list[list[Any]] = []
        self.stride = 1
        self.files: list[dict[str, Any]] = []
        self.labelled = 0
        self.last: dict[str, Any] = {}
        self.complete: dict[str, Any] | None = None

    def feed(self, rows: Sequence[Outcome], name: str) -> list[str]:
        """Adds rows of a file; returns the names of the tests that raise their first alarm."""
        before = self.monitor.examples
        alarmed = {test for test, alarm in self.monitor.alarms().items() if alarm}
        correct = np.array([row.correct for row in rows])
        traces = self.monitor.update(
            [row.accepted for row in rows],
            correct,
            [row.score for row in rows] if DRIFT in self.monitor.bounds else None,
        )
        self.labelled += int(np.sum(~np.isnan(correct)))
        self._remember(rows, traces, before)
        self.last = _place(rows[-1], name)
        alarms = self.monitor.alarms()
        new = [test for test, alarm in alarms.items() if alarm and test not in alarmed]
        for test in new:
            alarm = alarms[test]
            assert alarm is not None
            self.places[test] = _place(rows[alarm.example - before - 1], name)
        return new

    def _remember(
        self, rows: Sequence[Outcome], traces: Mapping[str, np.ndarray], before: int
    ) -> None:
        """Adds to the history, and halves it when it is full."""
        for index in range(-before % self.stride, len(rows), self.stride):
            values = [float(traces[test][index]) for test in self.monitor.bounds]
            self.history.append([before + index + 1, rows[index].time, *values])
        while len(self.history) > POINTS:
            self.history, self.stride = self.history[::2], 2 * self.stride

    def read(
        self, name: str, file: IO[bytes], *, resumable: bool, on_alarm: Callable[[str], None]
    ) -> str | None:
        """Reads a file to its end; what was read of it before is skipped if it is resumable.

        Args:
            name: of the file.
            file: at its start.
            resumable: whether its beginning is remembered, and a last line without an end left.
            on_alarm: called with a line of text for each test that raises its first alarm.

        Returns:
            A note; None: there is nothing to say.
        """
        known, changed, others = None, None, self.files
        if resumable:
            known = outcome_file.read_before(file, self.files)
            file.seek(0)
            if known and known["name"] == name:  # this file has grown
                others = [entry for entry in self.files if entry is not known]
            else:  # the file of the known beginning may be given again
                changed = _changed(name, file, self.files)
                file.seek(0)
        lines = Lines(file, name, complete_only=resumable)
        examples, notes = self.monitor.examples, list[str]()
        skip = known["bytes"] if known else 0
        for rows in outcome_file.read(lines, name, self.form, skip=skip, on_note=notes.append):
            alarms = self.feed(rows, name)
            if resumable:
                beginning = {"bytes": lines.bytes, "sha256": lines.sha256, "lines": lines.count}
                self.files = [*others, {"name": name, **beginning}]
            self.complete = self.state()
            for test in alarms:
                on_alarm(alarm_line(self, test))
        added = self.monitor.examples - examples
        if changed and added:
            notes.append(
                f"it no longer begins with the {changed['lines']:,} lines that were read of it "
                "before: those of its images that were counted before are counted again"
            )
        return _note(name, notes, known, lines, added)

    def state(self) -> dict[str, Any]:
        """Returns all that was seen, as a value for JSON."""
        stored = {name: copy.copy(getattr(self, name)) for name in _STORED}
        return {"monitor": self.monitor.state(), "labels": self._labels(), **stored}

    def _labels(self) -> dict[str, Any]:
        """Returns the settings that say how true labels are read."""
        return {name: getattr(self.form, name) for name in _LABELS}

    def restore(self, state: Mapping[str, Any], path: str) -> None:
        """Continues from a state.

        Args:
            state: of `state`.
            path: of its file, for messages.

        Raises:
            InputError: for other settings.
        """
        stored = _LABELS | state.get("labels", {})
        try:
            for name, value in self._labels().items():
                if stored[name] != value:
                    raise InputError(
                        f"the state has other settings: {name} {stored[name]!r} there, {value!r} "
                        "here"
                    )
            self.monitor.restore(state["monitor"])
        except InputError as error:
            raise InputError(f"{path!r}: {error}; choose another --state") from error
        for name in _STORED:
            setattr(self, name, state[name])


def watch(
    path: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    settings: Settings = Settings(),  # noqa: B008  (immutable)
    *,
    state: str | os.PathLike[str] | None = None,
    on_alarm: Callable[[str], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Session:
    """Watches the predictions in files.

    Args:
        path: folder of the model.
        files: CSV or JSON Lines, in the order of time; `-` is standard input.
        settings: what is watched.
        state: file from which the tests continue, and in which what they have seen is saved when
            all files are read, or when they are interrupted; None: they start anew.
        on_alarm: called with a line of text when a test raises its first alarm.
        on_note: called with a line of text for each note.

    Raises:
        InputError: for invalid settings, a model, file or line that cannot be read, or a state of
            another model or of other settings; the state is then unchanged.
    """
    model_card = card.read(user_path(path))
    session = Session(model_card, settings)
    names = [os.fspath(file) for file in files]

    def read_all(resumable: bool) -> None:
        for name in names:
            if note := _read(session, name, resumable, on_alarm):
                on_note(note)
        if not session.monitor.examples:
            raise InputError("no rows: give the output of kdjax predict --csv or --json")

    if state is None:
        read_all(False)
        return session
    location, model = user_path(state), monitor_state.identity(model_card)
    with monitor_state.lock(location):
        if content := monitor_state.load(location, model):
            session.restore(content, str(location))
        try:
            read_all(True)
        except (KeyboardInterrupt, SystemExit, Preempted):
            # Ctrl-C or SIGTERM: what was read of a pipe cannot be read again.
            if session.complete:
                monitor_state.save(location, model, session.complete)
            raise
        monitor_state.save(location, model, session.state())
    return session


def _read(
    session: Session, name: str, resumable: bool, on_alarm: Callable[[str], None]
) -> str | None:
    if name == STDIN:
        return session.read("standard input", sys.stdin.buffer, resumable=False, on_alarm=on_alarm)
    try:
        with user_path(name).open("rb") as file:
            again = resumable and file.seekable()  # a pipe is not
            return session.read(name, file, resumable=again, on_alarm=on_alarm)
    except OSError as error:
        raise InputError(f"{name!r} cannot be read: {error.strerror}") from error


def report(session: Session) -> dict[str, Any]:
    """Returns what was watched and seen, as values for JSON.

    Returns:
        `examples`, `labelled`, `last` (the place of the last example), `delta`, `limit` of the
        wealth, `alarm`, whether there was one, `not_watched`, the reasons by test, and `tests`: the
        fields of `selective.MonitorStatus`, with the `place` of the alarm: `file`, `line` and
        `time`. None is an undefined value.
    """
    monitor = session.monitor
    tests = {}
    for name in monitor.bounds:
        status = monitor.status(name)
        fields = {**status._asdict(), "mean": status.mean if status.size else None}
        fields["alarm"] = status.alarm._asdict() if status.alarm else None
        tests[name] = {**fields, "place": session.places.get(name)}
    return {
        "examples": monitor.examples,
        "labelled": session.labelled,
        "last": session.last,
        "delta": monitor.delta,
        "limit": len(monitor.bounds) / monitor.delta,
        "alarm": any(test["alarm"] for test in tests.values()),
        "tests": tests,
        "not_watched": session.not_watched,
    }


def alarm_line(session: Session, name: str) -> str:
    """Returns in words when a test raised its alarm, and what it has seen since the change."""
    alarm, place = session.monitor.status(name).alarm, session.places[name]
    assert alarm is not None
    bound = session.monitor.bounds[name]
    seen = {
        RISK: f"{percent(alarm.mean)} of {alarm.size:,} accepted labelled images are wrong, but "
        f"at most {words.limit(bound)} was promised",
        COVERAGE: f"{percent(alarm.mean)} of {alarm.size:,} images are accepted, but at least "
        f"{words.percent_down(bound)} was expected",
        DRIFT: f"{alarm.size:,} confidences have the mean rank {alarm.mean:.3f} among the "
        "confidences of calibration and those seen before, 0.5 without drift",
    }
    when = f", time {place['time']}" if place["time"] else ""
    return (
        f"{name}: alarm at image {alarm.example:,} ({place['file']}, line {place['line']:,}{when});"
        f" from about image {alarm.since:,} on, {seen[name]}"
    )


def _place(row: Outcome, name: str) -> dict[str, Any]:
    return {"file": name, "line": row.line, "time": row.time}


def _changed(
    name: str, file: IO[bytes], known: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Returns what was read last of a file of this name, if the file does not begin with it."""
    last = [entry for entry in known if entry["name"] == name][-1:]
    return last[0] if last and not outcome_file.read_before(file, last) else None


def _note(
    name: str, notes: Sequence[str], known: Mapping[str, Any] | None, lines: Lines, added: int
) -> str | None:
    parts = [*notes]
    if known:
        parts.append(f"the first {known['lines']:,} lines were read before and are skipped")
    if lines.incomplete:
        parts.append("the last line is incomplete (no line break) and is left for the next call")
    if not added and not known:
        parts.append("no rows")
    return f"{name}: {'; '.join(parts)}" if parts else None


def percent(share: float) -> str:
    """Returns a share with three digits, such as `84.2 %`."""
    return f"{100 * share:.3g} %"
