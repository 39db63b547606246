"""The page that compares more runs than fit side by side."""

import csv
import html
import io
import json
import re
import urllib.parse

import numpy as np
import pytest
from support import sample_runs
from support.pages import assert_valid, plain_text

from kdjax import selective
from kdjax.errors import InputError
from kdjax.report import page
from kdjax.report.page import comparison, many, seeds
from kdjax.selective import Interval

PAYOFFS = (1.5, 2.0, 2.5, 3.0, 3.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns six runs on the same test images: five payoffs, and the last one with two seeds."""
    root = tmp_path_factory.mktemp("many")
    found = []
    for number, payoff in enumerate((*PAYOFFS, PAYOFFS[-1])):

        def draw(n, seed, *, shift=0.4 * number, **options):
            predicted = sample_runs.split(n, seed, **options)
            logits = predicted.logits.copy()
            logits[range(n), predicted.labels] += shift
            return predicted._replace(logits=logits)

        folder = sample_runs.write(root / f"payoff {payoff} {number}", draw=draw)
        metadata = json.loads((folder / "config.json").read_text())
        metadata["config"]["objective"]["payoff"] = payoff
        metadata["config"]["seed"] = int(number == 5)
        sample_runs.write_json(folder / "config.json", metadata)
        found.append(page.read(folder))
    return found


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "comparison.html"
    return page.write_comparison(runs, out).read_text()


@pytest.mark.slow
def test_page_is_valid_and_has_a_small_figure_for_each_group(text):
    assert len(assert_valid(text).all("svg")) == 5  # of six runs two differ in their seed only
    assert "5: payoff 3.5 4 and 1 more" in plain_text(text)


def with_teacher(root, name, **teacher):
    """Returns a run whose teacher is that of another workdir."""
    folder = sample_runs.write(root / name)
    metadata = json.loads((folder / "config.json").read_text())
    of_teacher = {**metadata, "stage": "teacher", "config": {**metadata["config"], **teacher}}
    (folder / "teacher").mkdir(exist_ok=True)
    sample_runs.write_json(folder / "teacher" / "config.json", of_teacher)
    metadata["config"]["teacher"]["workdir"] = name
    sample_runs.write_json(folder / "config.json", metadata)
    return page.read(folder)


def test_runs_whose_given_teachers_differ_are_not_seeds_of_one_setting(tmp_path):
    found = [
        with_teacher(tmp_path, "a", seed=0),
        with_teacher(tmp_path, "b", seed=1),
        with_teacher(tmp_path, "c", seed=0, setting="depth"),
        with_teacher(tmp_path, "d", seed=0, setting="depth"),
    ]
    assert seeds.group(found) == [0, 0, 1, 1]
    (found[3].folder / "teacher" / "config.json").unlink()
    assert seeds.group(found) == [0, 0, 1, 2]


def test_run_that_is_given_twice_is_refused(runs, tmp_path):
    again = runs[1]._replace(folder=runs[1].folder / ".." / runs[1].folder.name)
    with pytest.raises(InputError, match=r"the run '.*' is given twice"):
        page.write_comparison([*runs, again], tmp_path / "page.html")


def test_no_table_has_a_column_for_each_run(text):
    widths = [len(re.findall('<th scope="col"', head)) for head in text.split("<thead>")[1:]]
    assert max(widths) <= 12
    assert not any("1: payoff 1.5 0" in head for head in re.findall("<thead>.*?</thead>", text))


def test_rows_are_sorted_by_aurc_on_dev(runs):
    names = [str(number) for number in range(len(runs))]
    order = comparison.rank(runs)
    areas = [runs[index].response_metrics["dev_aurc"] for index in order]
    assert areas == sorted(areas) and areas[0] < areas[-1]
    changes = [comparison.compare_with(runs[0], run) for run in runs[1:]]
    tables = (
        comparison.results_table(names, runs),
        comparison.certificate_table(names, runs),
        many.field_table(names, runs, order),
    )
    for table in tables:
        assert [row[0] for row in table.rows] == [names[index] for index in order]
    table = many.difference_table(names, changes, order, comparison.metric_label)
    assert [row[0] for row in table.rows] == [names[index] for index in order if index]
    column = table.head.index("accuracy, points")
    for row in table.rows:
        difference = 100 * (runs[int(row[0])].correct.mean() - runs[0].correct.mean())
        assert row[column].startswith(f"{difference:+.2f}\n")


def test_figures_are_sorted_by_the_mean_aurc_on_dev_of_their_group(runs):
    names = [f"{number}: run" for number in range(len(runs))]
    figures, outside = many.panels(names, runs)
    groups = seeds.group(runs)
    means = {
        number: np.mean(
            [
                run.response_metrics["dev_aurc"]
                for run, other in zip(runs, groups, strict=True)
                if other == number
            ]
        )
        for number in groups
    }
    firsts = [names[groups.index(number)] for number in sorted(means, key=means.__getitem__)]
    assert [name.removesuffix(" and 1 more") for name, _ in figures] == firsts
    assert outside == []


def test_only_fields_that_differ_are_listed(runs):
    assert many.varying_fields(runs) == {
        "seed": ["0"] * 5 + ["1"],
        "objective.payoff": [str(payoff) for payoff in (*PAYOFFS, PAYOFFS[-1])],
    }
    assert many.field_table(["a", "b"], runs[:1] * 2, [0, 1]) is None


def test_summary_counts_the_significant_differences():
    def change(low, high):
        return {name: Interval((low + high) / 2, low, high) for name in ("accuracy", "aurc")}

    changes = [change(0.1, 0.2), change(0.3, 0.4), change(-0.1, 0.1), change(-0.3, -0.1)]
    changes.append({name: Interval(0.1, np.nan, np.nan) for name in ("accuracy", "aurc")})
    first, second = many.sentences(["1: a"], changes)
    assert first.startswith(
        "Of the other 5 runs, 2 have a significantly higher accuracy than 1: a and 1 a "
    )
    assert "higher AURC" in second


def test_csv_has_the_metrics_of_every_run(text, runs):
    (link,) = re.findall(r'<a href="(data:text/csv[^"]*)" download="runs.csv">', text)
    content = urllib.parse.unquote(html.unescape(link).partition(",")[2])
    lines = list(csv.DictReader(io.StringIO(content)))
    assert [line["folder"] for line in lines] == [
        str(runs[index].folder) for index in comparison.rank(runs)
    ]
    for line, index in zip(lines, comparison.rank(runs), strict=True):
        run = runs[index]
        area = selective.aurc(run.response_ranking, run.correct)
        assert float(line["test_aurc"]) == pytest.approx(area)
        assert float(line["test_accuracy"]) == pytest.approx(run.correct.mean())
        assert line["objective.payoff"] == str((*PAYOFFS, PAYOFFS[-1])[index])
        assert line["group"] == str(min(index, 4) + 1)
        assert float(line["test_error_at_90"]) >= 0
