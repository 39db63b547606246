"""Watching the predictions of a model: what a card permits, files, states and alarms."""

import json
import math
import os
import pathlib
import sys
import threading

import numpy as np
import pytest
from support import colours, monitored

from kdjax.errors import InputError, Preempted
from kdjax.export import card
from kdjax.predict import monitor_state, monitoring, outcome_file
from kdjax.predict.monitoring import Settings, watch
from kdjax.selective import Monitor

BAD = {"seed": 5, "wrong": 0.4, "shift": -1.0, "labelled": 1.0}  # of which all tests alarm


@pytest.fixture
def model(tmp_path):
    return monitored.model(tmp_path / "model")


def refused(*arguments, **options):
    with pytest.raises(InputError) as raised:
        watch(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def append(path, results):
    with pathlib.Path(path).open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in results)


def test_a_session_sees_what_a_monitor_sees(model, tmp_path):
    results = [*monitored.rows(300), *monitored.rows(200, **BAD)]
    path = monitored.write_csv(tmp_path / "labels.csv", results)
    session = watch(model, [path])
    monitor = session.monitor
    own = Monitor(risk=0.05, coverage=0.7, reference=reference_of(model))
    correct = [
        math.nan if row["truth"] is None else row["truth"] == row["label"] for row in results
    ]
    own.update([row["accepted"] for row in results], correct, [row["score"] for row in results])
    assert own.state() == monitor.state()
    report = monitoring.report(session)
    assert report["examples"] == 500 and report["labelled"] == int(np.sum(~np.isnan(correct)))
    assert report["limit"] == pytest.approx(60) and report["not_watched"] == {}
    for name, test in report["tests"].items():
        alarm = own.alarms()[name]
        assert test["alarm"] == alarm._asdict()
        row = results[alarm.example - 1]
        assert test["place"] == {"file": path, "line": alarm.example + 1, "time": row["time"]}
    json.dumps(report, allow_nan=False)


def reference_of(model):
    from kdjax.export.monitoring import reference_of

    return reference_of(json.loads((model / "card.json").read_text())["monitoring"])


def test_alarms_are_told_in_words_with_their_line_and_time(model, tmp_path):
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(400, **BAD))
    lines = []
    session = watch(model, [path], on_alarm=lines.append)
    assert sorted(line.partition(":")[0] for line in lines) == ["coverage", "drift", "risk"]
    (line,) = (line for line in lines if line.startswith("risk"))
    alarm = session.monitor.alarms()["risk"]
    assert f"alarm at image {alarm.example} ({path}, line {alarm.example}, time 2026-03-0" in line
    assert f"from about image {alarm.since} on" in line and "at most 5 % was promised" in line
    assert f"of {alarm.size} accepted labelled images are wrong" in line
    assert any("but at least 70.0 % was expected" in line for line in lines)


def test_bounds_in_alarms_are_rounded_to_the_safe_side(tmp_path):
    bounds = {"risk": {"bound": 0.012341234, "delta": 0.05}, "coverage": {"bound": 0.61278}}
    model = monitored.model(tmp_path / "model", monitoring={**bounds, "drift": None})
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(400, **BAD))
    lines = []
    watch(model, [path], on_alarm=lines.append)
    assert any("but at most 1.24 % was promised" in line for line in lines)
    assert any("but at least 61.2 % was expected" in line for line in lines)


def test_files_without_labels_advance_coverage_and_drift_alone(model, tmp_path):
    results = [
        {name: row[name] for name in monitored.COLUMNS} for row in monitored.rows(400, **BAD)
    ]
    session = watch(model, [monitored.write_csv(tmp_path / "new.csv", results)])
    tests = monitoring.report(session)["tests"]
    assert tests["risk"]["size"] == 0 and tests["risk"]["mean"] is None
    assert [name for name, test in tests.items() if test["alarm"]] == ["coverage", "drift"]


def test_what_a_card_permits_is_watched(tmp_path):
    results = monitored.rows(50)
    path = monitored.write_csv(tmp_path / "labels.csv", results)
    figures = {"calibration": {"accepted": 160, "images": 200}}
    point = {"figures": figures, "bound": None}
    earlier = monitored.model(tmp_path / "earlier", monitoring=None, operating_point=point)
    session = watch(earlier, [path])
    assert list(session.monitor.bounds) == ["risk", "coverage"]
    assert "export the model again with this version" in session.not_watched["drift"]
    stored = {"risk": monitored.RISK, "coverage": monitored.COVERAGE, "drift": None}
    equal = watch(monitored.model(tmp_path / "equal", monitoring=stored), [path])
    assert equal.not_watched["drift"].startswith("the confidences of the dev split do not differ")
    assert "export" not in equal.not_watched["drift"]
    assert session.monitor.bounds["coverage"] < 0.8
    assert "drift cannot be watched: the card has no" in refused(
        earlier, [path], Settings(watch=["drift"])
    )
    nothing = colours.write(tmp_path / "nothing", b"")
    assert "nothing can be watched: the model has no certificate" in refused(nothing, [path])
    session = watch(nothing, [path], Settings(risk=0.1))
    assert session.monitor.bounds == {"risk": 0.1}
    session = watch(earlier, [path], Settings(watch=["risk"], delta=0.01))
    assert session.monitor.log_limit == pytest.approx(math.log(100))
    assert session.not_watched["coverage"] == "left out by --watch"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (Settings(watch=["rsk"]), "unknown test 'rsk': did you mean 'risk'?"),
        (Settings(watch=["drift"], risk=0.1), "--risk is given, but --watch=drift leaves it out"),
        (Settings(risk=2.0), "risk must lie in (0, 1): got 2.0"),
        (Settings(delta=0.0), "delta must lie in (0, 1): got 0.0"),
        (Settings(truth="tru"), "unknown column 'tru': did you mean 'truth'?"),
        (Settings(time="when"), "unknown column 'when'"),
    ],
)
def test_invalid_settings_are_one_line(model, tmp_path, settings, part):
    path = monitored.write_csv(tmp_path / "labels.csv", monitored.rows(5))
    assert part in refused(model, [path], settings)


def test_files_that_cannot_be_read_are_one_line(model, tmp_path):
    assert "nowhere.csv' cannot be read: No such file" in refused(model, [tmp_path / "nowhere.csv"])
    assert "cannot be read: Is a directory" in refused(model, [tmp_path])
    (tmp_path / "empty.csv").write_text("label,accepted,score\n")
    assert "no rows: give the output of kdjax predict" in refused(model, [tmp_path / "empty.csv"])
    assert "no model in" in refused(tmp_path, [tmp_path / "empty.csv"])


def test_standard_input_is_read(model, tmp_path, monkeypatch):
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(60))
    with pathlib.Path(path).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        session = watch(model, ["-"])
    assert session.last == {"file": "standard input", "line": 60, "time": "2026-03-01"}
    assert session.monitor.state() == watch(model, [path]).monitor.state()


# States


def test_a_growing_file_is_read_once(model, tmp_path):
    results = monitored.rows(400, seed=3)
    path, state, notes = tmp_path / "labels.jsonl", tmp_path / "state.json", []
    path.touch()
    for start, end in ((0, 1), (1, 150), (150, 150), (150, 400)):
        append(path, results[start:end])
        session = watch(model, [path], state=state, on_note=notes.append)
        assert session.monitor.examples == end
    assert notes == [
        f"{path}: the first {lines} lines were read before and are skipped"
        for lines in (1, 150, 150)
    ]
    at_once = watch(model, [path])
    for name in at_once.monitor.bounds:
        a, b = at_once.monitor.status(name), session.monitor.status(name)
        assert a.log_wealth == pytest.approx(b.log_wealth, abs=1e-9) and a.size == b.size
    assert session.last["line"] == 400 and session.labelled == at_once.labelled
    assert [point[0] for point in session.history] == list(range(1, 401))
    moved = path.rename(tmp_path / "labels.jsonl.1")  # as programs do that rotate logs
    assert watch(model, [moved], state=state).monitor.examples == 400
    append(path, monitored.rows(30, seed=4))
    assert watch(model, [moved, path], state=state).monitor.examples == 430


def test_files_that_continue_others_are_read_once(model, tmp_path):
    results, state = monitored.rows(150), tmp_path / "state.json"
    days = [tmp_path / f"{day}.jsonl" for day in ("mon", "tue", "wed")]
    for number, day in enumerate(days, 1):
        monitored.write_json(day, results[: 50 * number])
        session = watch(model, days[:number], state=state)
        assert session.monitor.examples == 50 * number
    notes = []
    assert watch(model, days, state=state, on_note=notes.append).monitor.examples == 150
    assert [note.partition("the first ")[2].partition(" ")[0] for note in notes] == [
        "50",
        "100",
        "150",
    ]
    known = json.loads(state.read_text())["files"]
    assert [entry["lines"] for entry in known] == [50, 100, 150]


def test_a_file_that_has_changed_is_noted_and_counted_again(model, tmp_path):
    results, state, notes = monitored.rows(60), tmp_path / "state.json", []
    unlabelled = [{**row, "truth": ""} for row in results]
    path = monitored.write_csv(tmp_path / "new.csv", unlabelled[:40])
    watch(model, [path], state=state)
    monitored.write_csv(tmp_path / "new.csv", [*unlabelled[:40], *results[40:50]])
    watch(model, [path], state=state, on_note=notes.append)
    assert notes == [f"{path}: the first 41 lines were read before and are skipped"]
    monitored.write_csv(tmp_path / "new.csv", results)
    changed = "it no longer begins with the 51 lines that were read of it before"
    session = watch(model, [path], state=state, on_note=notes.append)
    assert session.monitor.examples == 110
    assert notes[1].startswith(f"{path}: {changed}: ") and notes[1].endswith("are counted again")
    watch(model, [path], state=state, on_note=notes.append)
    assert notes[2] == f"{path}: the first 61 lines were read before and are skipped"


def test_a_file_that_grows_has_one_entry_in_the_state(model, tmp_path):
    results, state, notes = monitored.rows(60), tmp_path / "state.json", []
    path = tmp_path / "new.jsonl"
    for count in (20, 40, 60):
        monitored.write_json(path, results[:count])
        session = watch(model, [path], state=state, on_note=notes.append)
        assert session.monitor.examples == count
    (entry,) = json.loads(state.read_text())["files"]
    assert entry["lines"] == 60 and "no longer" not in "".join(notes)


def test_a_column_that_may_have_the_true_labels_is_noted(model, tmp_path):
    results = [
        {"y" if name == "truth" else name: value for name, value in row.items()}
        for row in monitored.rows(20, labelled=1)
    ]
    path, notes = monitored.write_csv(tmp_path / "new.csv", results), []
    assert watch(model, [path], on_note=notes.append).labelled == 0
    (note,) = notes
    assert note.startswith(f"{path}: the column 'y' has a class in its first row")
    assert "--truth=y" in note
    assert watch(model, [path], Settings(truth="y"), on_note=notes.append).labelled == 20
    assert len(notes) == 1


def test_decisions_of_a_model_with_another_threshold_are_refused(model, tmp_path):
    stricter = [{**row, "accepted": row["score"] > 1} for row in monitored.rows(50)]
    path = monitored.write_csv(tmp_path / "new.csv", stricter)
    assert "not accepted with the score" in refused(model, [path])
    for name, changes in (
        ("gated", {"gate": {"name": "energy", "threshold": 1.0}}),
        ("classwise", {"class_thresholds": [monitored.THRESHOLD, 0.5, None]}),
    ):
        other = monitored.model(tmp_path / name, **changes)
        assert watch(other, [path]).monitor.examples == 50


def test_a_line_that_is_being_written_is_left_for_the_next_call(model, tmp_path):
    path, state, notes = tmp_path / "labels.jsonl", tmp_path / "state.json", []
    text = "".join(f"{json.dumps(row)}\n" for row in monitored.rows(20))
    path.write_text(text[:-30])
    session = watch(model, [path], state=state, on_note=notes.append)
    assert session.monitor.examples == 19
    assert notes == [
        f"{path}: the last line is incomplete (no line break) and is left for the next call"
    ]
    path.write_text(text)
    assert watch(model, [path], state=state).monitor.examples == 20


def test_an_alarm_stays_and_its_place_is_kept(model, tmp_path):
    state, lines = tmp_path / "state.json", []
    bad = monitored.write_json(tmp_path / "bad.jsonl", monitored.rows(400, **BAD))
    first = watch(model, [bad], state=state, on_alarm=lines.append)
    assert len(lines) == 3
    good = monitored.write_json(tmp_path / "good.jsonl", monitored.rows(100))
    later = watch(model, [good], state=state, on_alarm=lines.append)
    assert len(lines) == 3 and later.places == first.places
    assert monitoring.report(later)["alarm"]
    assert [monitoring.alarm_line(later, name) for name in later.places] == lines


def test_an_error_leaves_the_state_as_it_was(model, tmp_path):
    state = tmp_path / "state.json"
    good = monitored.write_json(tmp_path / "good.jsonl", monitored.rows(100))
    watch(model, [good], state=state)
    before = state.read_bytes()
    broken = tmp_path / "broken.jsonl"
    append(broken, monitored.rows(50, seed=1))
    with broken.open("a") as file:
        file.write("{\n")
    assert "broken.jsonl, line 51: not JSON" in refused(model, [broken], state=state)
    assert state.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*state*")) in (
        ["state.json"],
        ["state.json", "state.json.lock"],
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, Preempted])
def test_what_was_read_of_a_pipe_is_saved_when_it_is_stopped(model, tmp_path, monkeypatch, stop):
    class Pipe:
        blocks = iter([f"{json.dumps(row)}\n".encode() for row in monitored.rows(3)])

        def read1(self, _):
            for block in self.blocks:
                return block
            raise stop

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Pipe()}))
    with pytest.raises(stop):
        watch(model, ["-"], state=tmp_path / "state.json")
    more = monitored.write_json(tmp_path / "more.jsonl", monitored.rows(2, seed=1))
    assert watch(model, [more], state=tmp_path / "state.json").monitor.examples == 5


def test_files_and_pipes_that_were_interrupted_count_once(model, tmp_path, monkeypatch):
    rows, state = monitored.rows(9), tmp_path / "state.json"
    first = monitored.write_json(tmp_path / "first.jsonl", rows[:4])
    second = monitored.write_json(tmp_path / "second.jsonl", rows[4:])
    monkeypatch.setattr(outcome_file, "_BATCH", 2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    piped = "".join(f"{json.dumps(row)}\n" for row in monitored.rows(3, seed=1))
    writer = threading.Thread(target=pipe.write_text, args=[piped])
    writer.start()
    feed, fed = monitoring.Session.feed, []

    def interrupted(session, batch, name):
        alarms = feed(session, batch, name)
        fed.append(name)
        if fed.count(str(second)) == 2:  # within a batch: the monitor has it, the session has not
            raise KeyboardInterrupt
        return alarms

    with monkeypatch.context() as patch:
        patch.setattr(monitoring.Session, "feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            watch(model, [pipe, first, second], state=state)
    writer.join()
    content = json.loads(state.read_text())
    assert content["monitor"]["examples"] == 3 + 4 + 2
    assert [(entry["name"], entry["lines"]) for entry in content["files"]] == [
        (str(first), 4),
        (str(second), 2),
    ]
    session = watch(model, [first, second], state=state)
    assert session.monitor.examples == 3 + 9 and session.last["line"] == 5
    assert watch(model, [first, second], state=state).monitor.examples == 12


@pytest.mark.parametrize("path", [".", "./", "/", "folder"])
def test_a_state_that_is_a_folder_is_refused(model, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    rows = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(5))
    message = refused(model, [rows], state=path)
    assert message.endswith("is a folder, and not a state of kdjax monitor")
    assert not list(tmp_path.glob("*.lock"))


def test_the_state_of_another_model_or_of_other_settings_is_refused(model, tmp_path):
    state = tmp_path / "state.json"
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(20))
    watch(model, [path], state=state)
    other = monitored.model(tmp_path / "other", threshold=-1.0)
    assert "is the state of another model, or of another export" in refused(
        other, [path], state=state
    )
    for settings, part in (
        (Settings(delta=0.1), "delta 0.05 there, 0.1 here; choose another --state"),
        (Settings(risk=0.2), "risk 0.05 there, 0.2 here"),
        (Settings(watch=["risk"]), "coverage 0.7 there, None here"),
        (Settings(truth="label"), "truth 'truth' there, 'label' here; choose another --state"),
        (Settings(count_unknown=True), "count_unknown False there, True here; choose"),
    ):
        assert part in refused(model, [path], settings, state=state)
    content = json.loads(state.read_text())
    for damage, part in (
        ({"format": 2}, "has format 2"),
        ({"history": None}, "is damaged (checksum mismatch): restore a copy of it"),
    ):
        state.write_text(json.dumps(content | damage))
        assert part in refused(model, [path], state=state)
    for text, part in (("{", "is damaged"), ("[]", "is not a state of kdjax monitor")):
        state.write_text(text)
        assert part in refused(model, [path], state=state)
    del content["stride"]
    state.write_text(json.dumps(content))
    assert "is damaged (checksum mismatch)" in refused(model, [path], state=state)


def test_a_state_of_an_earlier_version_has_the_default_columns(model, tmp_path):
    state, model_card = tmp_path / "state.json", card.read(model)
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(20))
    content = watch(model, [path]).state()
    del content["labels"]
    monitor_state.save(state, monitor_state.identity(model_card), content)
    assert watch(model, [path], Settings(truth="truth"), state=state).monitor.examples == 40
    monitor_state.save(state, monitor_state.identity(model_card), content)
    assert "truth 'truth' there, 'label' here" in refused(
        model, [path], Settings(truth="label"), state=state
    )


def test_a_state_is_used_by_one_process_at_a_time(model, tmp_path):
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(5))
    with monitor_state.lock(tmp_path / "state.json"):
        assert "is in use by another process" in refused(
            model, [path], state=tmp_path / "state.json"
        )
    assert watch(model, [path], state=tmp_path / "state.json").monitor.examples == 5


def test_the_history_has_few_points_of_a_long_stream(model, tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "POINTS", 16)
    path = monitored.write_json(tmp_path / "labels.jsonl", monitored.rows(300))
    session = watch(model, [path])
    assert [point[0] for point in session.history] == list(range(1, 301, session.stride))
    assert 8 <= len(session.history) <= 16
    full = watch(model, [path], Settings())
    assert full.history == session.history
