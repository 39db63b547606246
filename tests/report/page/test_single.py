"""The page of one run: its content, and that it is valid HTML."""

import shutil

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from support import sample_runs
from support.pages import Page, assert_valid, plain_text

from kdjax import selective
from kdjax.errors import InputError
from kdjax.objectives import METHODS
from kdjax.report import page
from kdjax.report.page import figures, formatting, tables


def test_page_is_valid_html_with_labels(written):
    parsed = assert_valid(written.html)
    assert all(image["alt"] for image in parsed.all("img"))
    plots = parsed.all("svg")
    assert len(plots) == len(parsed.all("figcaption")) >= 6
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    regions = [div for div in parsed.all("div") if div.get("role") == "region"]
    assert len(regions) == len(parsed.all("table")) >= 6
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_names_are_escaped(written):
    parsed = Page(written.html)
    assert not {"i", "b>&amp"} & {tag for tag, _ in parsed.elements}
    text = plain_text(written.html)
    for name in (*sample_runs.CLASSES, "<i>run", "<i>digits"):
        assert name in text


@pytest.mark.slow
def test_writing_the_page_is_reproducible(written, tmp_path):
    again = page.write(written.run, sample_runs.gallery_split(written.folder), out=tmp_path / "x")
    assert again.read_text(encoding="utf-8") == written.html


def test_page_has_every_part(written):
    text = plain_text(written.html)
    for part in (
        "Summary",
        "selective risk (error among accepted)",
        "Assumptions of the certificate",
        "Coverage is the share of accepted predictions; selective risk is the error among them",
        "The diamond is the operating point: the certified threshold on test",
        "expected calibration error (ECE), the mean distance from the dotted line over images in "
        "15 bins",
        "Shifted inputs and other data",
        "it accepts 12.5 % of 1,234 images",
        "is adjusted by the true label (probability shift)",
        "Confusion of classes",
        "Test images on which the model abstains",
        "Most confident errors",
        "Training of the teacher. The accuracy on train",
        "student.learning_rate",
    ):
        assert part.lower() in text.lower(), part
    assert len(Page(written.html).all("img")) == 2 * 24


def rows(table):
    return {row[0]: row[1:] for row in table.rows}


def test_selective_risks_are_shown_with_their_intervals(written):
    run = written.run
    cells = rows(tables.selective_risks(run, figures.intervals(run)))
    for name in figures.primary_scores(run):
        intervals = selective.bootstrap(run.confidence[name], run.correct, coverages=(0.95,))
        estimate, low, high = (f"{100 * value:.2f}" for value in intervals["error_at_0.95"])
        label = selective.display_name(name)
        cell = cells.get(label, cells.get(f"{label} *"))[1]
        assert cell == f"{estimate}\n{low}\N{EN DASH}{high}"
    without_intervals = rows(tables.selective_risks(run, {}))["margin"]
    values = run.results["scores"]["margin_log"]["error_at_coverage"].values()
    assert without_intervals == [f"{100 * value:.2f}" for value in values]


def test_certificates_are_shown_with_their_test_results(written):
    guarantee = dict(written.run.operating_point.guarantee)
    coverages = [0.01 * place for place in range(len(guarantee["certificates"]))]
    guarantee["simultaneous"] = {  # of an earlier version
        "delta": 0.01,
        "certificates": [
            {"risk": entry["risk"], "learn_then_test": {"coverage": coverage}}
            for entry, coverage in zip(guarantee["certificates"], coverages, strict=True)
        ],
    }
    point = written.run.operating_point._replace(guarantee=guarantee)
    table = tables.certificates(written.run._replace(operating_point=point))
    assert "Together: the coverage with --delta=0.01," in table.note
    *cells, together = zip(*table.rows, strict=True)
    cells = list(zip(*cells, strict=True))
    assert list(together[1::2]) == [f"{100 * coverage:.2f}" for coverage in coverages]
    assert len(cells) == 2 * len(guarantee["certificates"])
    for row, entry in zip(cells[1::2], guarantee["certificates"], strict=True):
        certificate, risk = entry["learn_then_test"], 100 * entry["risk"]
        mark = " *" if entry["risk"] == guarantee["risk"] else ""
        assert row[0].replace("\N{NO-BREAK SPACE}", " ") == f"{risk:g} %{mark}"
        if certificate["threshold"] is None:
            assert row[1:] == (
                "Learn then Test",
                "none",
                formatting.NONE,
                "0.00",
                "0.00",
                formatting.NONE,
            )
        else:
            shares = (certificate[key] for key in ("coverage", "test_coverage", "test_error"))
            shown = [f"{risk:.2f}", *(f"{100 * share:.2f}" for share in shares)]
            score = written.run.best_score
            threshold = selective.shown_threshold(score, certificate["threshold"])
            assert row[1:] == ("Learn then Test", threshold, *shown)


def test_confusion_matrices_count_all_and_the_accepted_images(written):
    run = written.run
    for selected in (np.ones(200, bool), run.accepted):
        matrix = tables.confusion_matrix(run, selected)
        counts = [[cell.images for cell in cells] for _, cells in matrix]
        labels = range(len(run.classes))
        expected = confusion_matrix(
            run.test.labels[selected], run.predicted[selected], labels=labels
        )
        assert counts == expected.tolist()
        assert [name for name, _ in matrix] == run.classes
        assert all(
            cell.diagonal == (i == j)
            for i, (_, cells) in enumerate(matrix)
            for j, cell in enumerate(cells)
        )
        assert all((cell.tint > 0) == (cell.images > 0) for _, cells in matrix for cell in cells)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_with_many_classes_only_confused_pairs_are_shown(tmp_path):
    classes = [f"class {index}" for index in range(21)]
    run = page.read(sample_runs.write(tmp_path, classes=classes))
    text = page.write(run).read_text()
    assert 'class="matrix"' not in text
    pairs = tables.confusions(run, np.ones(200, bool), "").rows
    assert 0 < len(pairs) <= 20
    for label, predicted, count in pairs:
        pair = (run.test.labels == classes.index(label)) & (
            run.predicted == classes.index(predicted)
        )
        assert int(count) == pair.sum()


@pytest.mark.usefixtures("undrawn")
def test_several_teachers_are_named_as_their_mean(written, tmp_path):
    disagreement = {
        split: {"mean": 0.05, "teacher_auroc": 0.9, "student_auroc": 0.8}
        for split in ("dev", "test")
    }
    results = {**written.run.results, "disagreement": {"members": 2, **disagreement}}
    path = page.write(written.run._replace(results=results), None, out=tmp_path / "x.html")
    text = plain_text(path.read_text(encoding="utf-8"))
    assert ", teacher mean of 2 teachers;" in text
    assert "Disagreement of the 2 teachers" in text


def test_equation_of_the_combination_has_signs_between_its_terms(written):
    point = written.run.operating_point._replace(combination=(2.17, 1.3, -0.171))
    note = tables.ranking(written.run._replace(operating_point=point)).note
    assert "Combination: 2.17 + 1.3 s - 0.171 r, the log-odds of being correct" in note


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "sizes", "parts"),
    [
        (
            sample_runs.all_correct,
            sample_runs.SPLITS,
            (
                "AUROC is not defined: all predictions are correct",
                "The model abstains on none of the test images.",
            ),
        ),
        (
            sample_runs.all_wrong,
            sample_runs.SPLITS,
            ("AUROC is not defined: all predictions are wrong",),
        ),
        (
            sample_runs.all_tied,
            sample_runs.SPLITS,
            ("None of these risks could be certified",),
        ),
        (sample_runs.one_class, sample_runs.SPLITS, ("Confusion of classes",)),
        (
            sample_runs.split,
            {"dev": 1, "calibration": 1, "test": 1},
            ("The calibration split is too small, with 1 images",),
        ),
        (
            sample_runs.all_wrong,
            {"dev": 1, "calibration": 1, "test": 1},
            ("accuracy on test is 0 %",),
        ),
    ],
)
def test_pages_of_extreme_runs_are_valid(tmp_path, draw, sizes, parts):
    folder = sample_runs.write(tmp_path, draw=draw, sizes=sizes)
    text = page.write(page.read(folder), sample_runs.gallery_split(folder)).read_text()
    assert_valid(text)
    assert all(part in plain_text(text) for part in parts)


@pytest.mark.slow
def test_page_of_a_run_with_predictions_only_is_valid(written, tmp_path):
    shutil.copytree(written.folder, tmp_path / "bare")
    for name in ("metrics.jsonl", "shift.json", "teacher/metrics.jsonl"):
        (tmp_path / "bare" / name).unlink()
    run = page.read(tmp_path / "bare")
    for key in ("teacher", "correction"):
        del run.results[key]
    text = page.write(sample_runs.without_guarantee(run)).read_text()
    assert_valid(text)
    for part in (
        "no threshold is certified",
        "so there are no training curves",
        "test split was not available",
        "No risk is guaranteed",
    ):
        assert part in plain_text(text)


@pytest.mark.usefixtures("undrawn")
def test_shifted_metrics_of_another_operating_point_are_left_out_with_a_warning(written, tmp_path):
    folder = shutil.copytree(written.folder, tmp_path / "run")
    message = (
        f"shift.json of '{folder}' is left out of the report: it was evaluated at the threshold "
        f".*; .*kdjax evaluate --workdir={folder} --shift=... evaluates it again"
    )
    assert 'id="shift"' in written.html
    with pytest.warns(UserWarning, match=message):
        text = page.write(page.read(folder, risk=0.3)).read_text()
    assert 'id="shift"' not in text and "#shift" not in text
    assert_valid(text)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
@pytest.mark.parametrize(("field", "value"), [("method", "kd"), ("adjustment", "none")])
def test_a_run_without_adjustment_does_not_claim_one(written, tmp_path, field, value):
    run = written.run._replace(metadata=sample_runs.metadata())
    run.metadata["config"]["objective"][field] = value
    method = run.metadata["config"]["objective"]["method"]
    text = plain_text(page.write(run, out=tmp_path / "page.html").read_text())
    assert f"The method {method} uses the teacher's distribution without adjustment." in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["ce", "ka", "self_adaptive"])
def test_header_names_the_teacher_of_methods_that_need_one(written, tmp_path, method):
    run = written.run._replace(metadata=sample_runs.metadata())
    run.metadata["config"]["objective"]["method"] = method
    text = plain_text(page.write(run, out=tmp_path / "page.html").read_text())
    assert f"method {method}" in text
    teacher = run.metadata["config"]["teacher"]["model"]
    assert (f"method {method}, teacher {teacher};" in text) == METHODS[method].needs_teacher


@pytest.mark.usefixtures("undrawn")
def test_header_names_the_network_of_the_teacher_of_another_run(written, tmp_path):
    folder = shutil.copytree(written.folder, tmp_path / "run")
    metadata = sample_runs.metadata("teacher")
    metadata["config"]["teacher"]["model"] = "resnet8"
    sample_runs.write_json(folder / "teacher" / "config.json", metadata)
    text = plain_text(page.write(page.read(folder)).read_text(encoding="utf-8"))
    assert ", teacher resnet8;" in text


@pytest.mark.usefixtures("undrawn")
def test_images_of_another_test_split_are_not_shown(written, tmp_path):
    test = sample_runs.gallery_split(written.folder)
    test.labels[0] = (test.labels[0] + 1) % 4
    with pytest.warns(UserWarning, match="no galleries: the test split is not that of the run"):
        path = page.write(written.run, test, out=tmp_path / "page.html")
    assert "<img" not in path.read_text()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_a_failed_write_leaves_no_file(written, tmp_path):
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "folder", tmp_path / "nowhere" / "page.html"):
        with pytest.raises(InputError, match="cannot be written"):
            page.write(written.run, out=out)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.usefixtures("undrawn")
def test_a_failed_rendering_keeps_the_old_file(written, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("the old page")
    monkeypatch.setitem(written.run.results, "scores", {})
    with pytest.raises(KeyError):
        page.write(written.run, out=out)
    assert out.read_text() == "the old page"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
