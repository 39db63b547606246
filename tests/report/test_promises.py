"""What is promised, on the terminal: the ladder of risks and the other statements in short."""

import json

import numpy as np
import pytest
from support import sample_runs

from kdjax.evaluation import promises as evaluated
from kdjax.report import console, promises


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = sample_runs.write(tmp_path_factory.mktemp("promised") / "run")
    return json.loads((sample_runs.add_promises(folder) / "results.json").read_text())


def lines_of(capsys, monkeypatch, shown):
    monkeypatch.setenv("COLUMNS", "160")
    console.show(shown, "run")
    return capsys.readouterr().out.splitlines()


def test_rows_have_the_numbers_of_the_ladder(results):
    rungs = results["promises"]["ladder"]["rungs"]
    found = promises.ladder_rows(results)
    assert len(found) == len(rungs) and all(len(row) == len(promises.COLUMNS) for row in found)
    for row, rung in zip(found, rungs, strict=True):
        mark = " *" if rung["risk"] == 0.1 else ""
        assert row[0] == f"{100 * rung['risk']:g}{mark}"
        assert (row[1] == "none") == (rung["threshold"] is None)
        assert row[2] == f"{rung['calibration']['accepted'] / 3:.2f}"
        assert row[3] == f"{rung['test']['accepted'] / 2:.2f}"
        test = rung["test"]
        expected = f"{100 * test['errors'] / test['accepted']:.2f}" if test["accepted"] else "-"
        assert row[4] == expected
        alone = (rung["alone"][name]["calibration"] for name in ("learn_then_test", "sgr"))
        assert row[5:] == tuple(f"{split['accepted'] / 3:.2f}" for split in alone)


def test_the_ladder_that_holds_together_is_the_table_of_a_new_run(capsys, monkeypatch, results):
    lines = lines_of(capsys, monkeypatch, results)
    text = " ".join(" ".join(lines).split())
    assert "Risks certified together" in text and "certified by" not in text
    assert "in all rows together: any row may be chosen after a look at the table" in text
    assert "each of these holds with 95 %, not several together" in text
    assert "the run uses the threshold of Learn then Test alone, with" in text


def test_each_other_statement_is_a_few_lines_with_its_scope(capsys, monkeypatch, results):
    lines = lines_of(capsys, monkeypatch, results)
    text = " ".join(" ".join(lines).split())
    short = promises.in_short(results)
    assert "What is promised about new images like those of the calibration split" in lines
    titles = [each.title for each in evaluated.statements(results)]
    ladder = evaluated.PROMISES["ladder"].statement(results["promises"]["ladder"]).title
    assert [line.split(": ")[0] for line in short] == [t for t in titles if t != ladder]
    assert all(line in text for line in short)
    assert short[0].endswith("[Holds alone, with a probability of at least 95 %]")


def test_results_of_an_earlier_version_have_the_table_of_each_risk_alone(
    capsys, monkeypatch, results
):
    earlier = {name: value for name, value in results.items() if name != "promises"}
    text = " ".join(lines_of(capsys, monkeypatch, earlier))
    assert "certified by" in text and "each line holds on its own" in text
    assert "What is promised" not in text and "Risks certified together" not in text
    assert promises.ladder(earlier) is None and promises.in_short(earlier) == []


def test_several_students_share_the_ladder(results):
    ladder = {**results["promises"]["ladder"], "runs": 3}
    shared = {**results, "promises": {**results["promises"], "ladder": ladder}}
    assert "in all rows of all 3 students together" in promises.ladder_notes(shared)[0]
    assert np.isclose(ladder["level"], 0.05 / 3)
    assert promises.ladder_notes(shared)[0].endswith("with its risk and --delta=0.01666")


@pytest.mark.slow
def test_a_threshold_for_risk_and_coverage_is_named_in_the_note(tmp_path):
    folder = sample_runs.write(tmp_path / "run", draw=sample_runs.all_correct)
    sample_runs.add_promises(folder, coverage=0.5)
    found = json.loads((folder / "results.json").read_text())
    assert found["guarantee"]["joint"]["both"]
    assert promises.ladder_notes(found)[-1].endswith(
        "the run uses a threshold that also has the requested coverage"
    )
