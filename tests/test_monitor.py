"""`kdjax monitor`: exit status, output, plots, and states between calls."""

import json
import os
import re
import subprocess
import sys

import pytest
from support import colours, monitored
from support.commands import ROOT, assert_refused, command

from kdjax.errors import InputError
from kdjax.export import formats
from kdjax.predict import load, monitoring, rows
from kdjax.predict.images import LoadedImage
from kdjax.report import monitor_table

BAD = {"seed": 5, "wrong": 0.4, "shift": -1.0, "labelled": 1.0}  # of which all tests alarm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitored")
    monitored.model(root / "model")
    monitored.write_csv(root / "good.csv", monitored.rows(300))
    monitored.write_json(root / "bad.jsonl", monitored.rows(300, **BAD))
    return root


def run(folder, *arguments):
    return command("monitor", f"--model={folder / 'model'}", *arguments, cwd=folder)


@pytest.mark.slow
def test_command_exits_with_3_once_there_is_an_alarm(folder, tmp_path):
    state = f"--state={tmp_path / 'state.json'}"
    good = run(folder, "good.csv", state)
    assert (good.returncode, good.stderr) == (0, "")
    lines = good.stdout.splitlines()
    assert lines[-1] == "no alarm: what was seen is compatible with what is watched"
    assert any(line.startswith("wealth: an alarm at 60 or more;") for line in lines)
    assert sum(line.startswith("│ ") for line in lines) == 3
    assert max(map(len, [line for line in lines if line[0] in "┏┡│└"])) <= 120
    bad = run(folder, "good.csv", "bad.jsonl", state, f"--plot={tmp_path / 'wealth.html'}")
    assert bad.returncode == 3
    assert bad.stderr == (
        "kdjax: note: good.csv: the first 301 lines were read before and are skipped\n"
    )
    lines = bad.stdout.splitlines()
    assert lines[-1] == "alarm"
    assert sum(": alarm at image " in line for line in lines) == 3
    page = (tmp_path / "wealth.html").read_text()
    assert "<svg" in page and "of accepted wrong" in page and "Risk: alarm at image" in page


@pytest.mark.slow
def test_command_prints_json_and_reads_standard_input(folder):
    with (folder / "bad.jsonl").open() as file:
        done = python_with_input(folder, file, "-", "--json", "--watch=coverage,risk")
    assert done.returncode == 3
    alarms = done.stderr.splitlines()
    assert len(alarms) == 2 and all(line.startswith("kdjax: alarm: ") for line in alarms)
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert (report["model"], report["inputs"]) == (str(folder / "model"), ["-"])
    assert report["alarm"] is True and report["examples"] == 300 and report["limit"] == 40
    assert list(report["tests"]) == ["risk", "coverage"]
    assert report["tests"]["risk"]["place"]["file"] == "standard input"
    assert report["not_watched"] == {"drift": "left out by --watch"}


def python_with_input(folder, file, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "kdjax.monitor", f"--model={folder / 'model'}", *arguments],
        **{"stdin": file, "capture_output": True, "text": True, "timeout": 300, "cwd": folder},
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_mistakes_in_the_arguments_are_one_line(folder, tmp_path):
    done = run(folder, "good.csv", f"--plot={tmp_path / 'wealth.png'}")
    assert_refused(done, "the name must end in .svg or .html")
    done = run(folder, "good.csv", "--watch=risk,drft")
    assert_refused(done, "unknown test 'drft': did you mean 'drift'?")
    assert_refused(run(folder), "no PREDICTIONS... given")
    assert_refused(command("monitor", "good.csv"), "no model given: for example --model=model/")


def test_what_predict_prints_is_read(tmp_path):
    content = formats.to_stablehlo(colours.function(0.5), colours.SHAPE)
    folder = colours.write(tmp_path / "model", content)
    images = colours.pictures([0, 1, 2, 0], [200, 200, 100, 255])
    batch = [LoadedImage("a.npz", i, pixels, "") for i, pixels in enumerate(images)]
    results = list(rows.rows(batch, load(folder)(images), colours.CLASSES))
    with (tmp_path / "new.csv").open("w") as file:
        writer = rows.CsvWriter(file, colours.CLASSES)
        for result in results:
            writer.write(result)
    lines = [f"{rows.json_line({**result, 'truth': 'red'})}\n" for result in results]
    (tmp_path / "new.jsonl").write_text("".join(lines))
    settings = monitoring.Settings(risk=0.1, least_coverage=0.3)
    session = monitoring.watch(folder, [tmp_path / "new.csv", tmp_path / "new.jsonl"], settings)
    assert (session.monitor.examples, session.labelled) == (8, 4)
    assert session.monitor.status("coverage").mean == 0.75
    risk = session.monitor.status("risk")
    assert (risk.size, risk.mean) == (3, pytest.approx(1 / 3))


# The table


@pytest.fixture(scope="module")
def session(folder):
    return monitoring.watch(folder / "model", [folder / "good.csv", folder / "bad.jsonl"])


def test_table_has_a_row_for_each_test(session):
    report = monitoring.report(session)
    cells = {row[0]: row for row in monitor_table.rows(report)}
    assert list(cells) == ["risk", "coverage", "drift"]
    assert all(len(row) == len(monitor_table.COLUMNS) for row in cells.values())
    risk, status = cells["risk"], session.monitor.status("risk")
    assert risk[1] == "at most 5 % of accepted wrong"
    low, high = status.interval
    assert risk[2] == (
        f"{100 * status.mean:.3g} % of {status.size} ({100 * low:.1f} to {100 * high:.1f})"
    )
    assert risk[5] == f"image {status.alarm.example}"
    assert cells["coverage"][1] == "at least 70.0 % accepted"
    assert re.fullmatch(r"mean rank 0\.\d{3} of 600 \(0\.5 without drift\)", cells["drift"][2])
    assert monitor_table.title(report).startswith("600 images, ")
    assert "bad.jsonl, line 300, time 2026-03-03" in monitor_table.title(report)


def test_summary_says_what_delta_means_and_what_is_not_watched(folder):
    path = folder / "good.csv"
    model = folder / "model"
    report = monitoring.report(monitoring.watch(model, [path]))
    first, *_, last = monitor_table.summary(report, [])
    assert "a test alarms falsely with probability at most 0.0167" in first
    assert "any of these 3 at most 0.05, at whatever time" in first and last.startswith("no alarm")
    alone = monitoring.watch(model, [path], monitoring.Settings(watch=["drift"], delta=0.01))
    lines = list(monitor_table.summary(monitoring.report(alone), ["drift: alarm at ..."]))
    assert lines[0].startswith("wealth: an alarm at 100 or more; it is false with probability at m")
    assert "not watched: risk: left out by --watch" in lines and "drift: alarm at ..." in lines


def test_what_has_no_label_is_said(folder, tmp_path):
    results = monitored.rows(40, labelled=0)
    path = monitored.write_csv(tmp_path / "new.csv", results)
    report = monitoring.report(monitoring.watch(folder / "model", [path]))
    assert next(monitor_table.rows(report))[2] == "nothing"
    lines = list(monitor_table.summary(report, []))
    assert "risk: no accepted image has a true label, so nothing is known about the risk" in lines


@pytest.mark.parametrize(
    ("log_wealth", "text"), [(0.0, "1"), (-2.5, "0.0821"), (9.2, "9.9e+03"), (800.0, "10^347")]
)
def test_wealth_of_any_size_is_shown(log_wealth, text):
    assert monitor_table.wealth(log_wealth) == text


@pytest.mark.slow
def test_flags_of_the_command_are_those_of_the_settings():
    flags = set(re.findall(r"^  --(\w+):", command("monitor", "--help").stdout, re.MULTILINE))
    others = {"model", "state", "plot", "json"}
    assert flags == {*monitoring.Settings._fields, *others}


def test_unknown_test_names_raise_before_a_file_is_read(folder):
    with pytest.raises(InputError, match="did you mean 'coverage'"):
        monitoring.watch(folder / "model", ["nowhere"], monitoring.Settings(watch=["covrage"]))
