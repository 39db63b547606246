"""The page of one run: what stands in it, and that it is sound HTML."""

import html.parser
import itertools
import re
import shutil

import numpy as np
import pytest
import sample_runs
from sklearn.metrics import confusion_matrix

from kdjax import selective
from kdjax.errors import InputError
from kdjax.report import page
from kdjax.report.page import figures, tables, words

VOID = {"meta", "link", "br", "img"}


class Page(html.parser.HTMLParser):
    """Elements of a page, and whether every one of them is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def assert_sound(text):
    """Well-formed, for itself alone, headings in order, no id twice, every link with its end."""
    found = Page(text)
    tags = [tag for tag, _ in found.elements]
    assert not {"script", "iframe", "object", "embed"} & set(tags)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    sources = [one.get("src", one.get("href", "")) for _, one in found.elements]
    assert all(one.startswith(("data:", "#")) or not one for one in sources)
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [one["id"] for _, one in found.elements if "id" in one]
    assert len(ids) == len(set(ids))
    links = {one["href"][1:] for one in found.all("a")}
    assert links <= set(ids)
    return found


def plain(text):
    """The text of a page, every space an ordinary one."""
    joined = "".join(Page(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).texts)
    return " ".join(joined.split())


def test_the_page_is_sound(written):
    found = assert_sound(written.html)
    assert all(one["alt"] for one in found.all("img"))
    plots = found.all("svg")
    assert len(plots) == len(found.all("figcaption")) >= 6
    assert all(one["role"] == "img" and one["aria-label"] for one in plots)
    regions = [one for one in found.all("div") if one.get("role") == "region"]
    assert len(regions) == len(found.all("table")) >= 6
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in regions)


def test_names_are_shown_and_never_read_as_html(written):
    found = Page(written.html)
    assert not {"i", "b>&amp"} & {tag for tag, _ in found.elements}
    text = plain(written.html)
    for name in (*sample_runs.CLASSES, "<i>run", "<i>digits"):
        assert name in text


def test_the_same_run_gives_the_same_page(written, tmp_path):
    again = page.write(written.run, sample_runs.gallery_split(written.folder), out=tmp_path / "x")
    assert again.read_text(encoding="utf-8") == written.html


def test_every_part_is_there(written):
    text = plain(written.html)
    for part in (
        "Verdict",
        "What the promise rests on",
        "The diamond is where the certified threshold puts this run",
        "(ECE, 15 bins)",
        "When inputs are not what they were",
        "it answers 12.5 % of 1,234 images",
        "The ground truth corrected",
        "Which classes it confuses",
        "What it abstains on",
        "Its most confident mistakes",
        "The teacher. Accuracy on train",
        "student.learning_rate",
    ):
        assert part.lower() in text.lower(), part
    assert len(Page(written.html).all("img")) == 2 * 24


def rows(table):
    return {row[0]: row[1:] for row in table.rows}


def test_errors_stand_with_their_intervals(written):
    run = written.run
    found = rows(tables.errors(run, figures.intervals(run)))
    for name in figures.shown_first(run):
        own = selective.bootstrap(run.confidence[name], run.right, coverages=(0.95,))
        estimate, low, high = (f"{100 * value:.2f}" for value in own["error_at_0.95"])
        label = name.replace("_", " ").replace("max logit pnorm", "MaxLogit-pNorm")
        cell = found.get(label, found.get(f"{label} *"))[1]
        assert cell == f"{estimate}\n{low}\N{EN DASH}{high}"
    plain_one = rows(tables.errors(run, {}))["margin"]
    values = run.results["scores"]["margin"]["error_at_coverage"].values()
    assert plain_one == [f"{100 * value:.2f}" for value in values]


def test_certificates_stand_with_what_test_gives(written):
    guarantee = written.run.guarantee
    cells = tables.certificates(written.run, guarantee).rows
    assert len(cells) == 2 * len(guarantee["certificates"])
    for row, entry in zip(cells[1::2], guarantee["certificates"], strict=True):
        found, risk = entry["learn_then_test"], 100 * entry["risk"]
        mark = " *" if entry["risk"] == guarantee["risk"] else ""
        assert row[0].replace("\N{NO-BREAK SPACE}", " ") == f"{risk:g} %{mark}"
        if found["threshold"] is None:
            assert row[1:] == ["Learn then Test", "none", words.NONE, "0.00", "0.00", words.NONE]
        else:
            shares = found["coverage"], found["test_coverage"], found["test_error"]
            shown = [f"{risk:.2f}", *(f"{100 * share:.2f}" for share in shares)]
            assert row[1:] == ["Learn then Test", f"{found['threshold']:.6g}", *shown]


def test_the_matrices_count_all_and_the_answered(written):
    run = written.run
    for chosen in (np.ones(200, bool), run.accepted):
        found = tables.matrix(run, chosen)
        counts = [[cell.images for cell in cells] for _, cells in found]
        labels = range(len(run.classes))
        expected = confusion_matrix(run.test.labels[chosen], run.predicted[chosen], labels=labels)
        assert counts == expected.tolist()
        assert [name for name, _ in found] == run.classes
        assert all(
            cell.right == (i == j)
            for i, (_, cells) in enumerate(found)
            for j, cell in enumerate(cells)
        )
        assert all((cell.tint > 0) == (cell.images > 0) for _, cells in found for cell in cells)


def test_of_many_classes_only_the_pairs_are_shown(tmp_path):
    classes = [f"class {index}" for index in range(21)]
    run = page.read(sample_runs.write(tmp_path, classes=classes))
    text = page.write(run).read_text()
    assert 'class="matrix"' not in text
    found = tables.confused(run, np.ones(200, bool), "")
    assert 0 < len(found.rows) <= 20
    for label, predicted, count in found.rows:
        pair = (run.test.labels == classes.index(label)) & (
            run.predicted == classes.index(predicted)
        )
        assert int(count) == pair.sum()


@pytest.mark.parametrize(
    ("draw", "sizes", "part"),
    [
        (
            sample_runs.all_right,
            sample_runs.SPLITS,
            "AUROC is not defined: all predictions are right",
        ),
        (sample_runs.all_right, sample_runs.SPLITS, "It abstains on none of the test images."),
        (
            sample_runs.all_wrong,
            sample_runs.SPLITS,
            "AUROC is not defined: all predictions are wrong",
        ),
        (
            sample_runs.all_tied,
            sample_runs.SPLITS,
            "None of the error rates tried could be certified",
        ),
        (sample_runs.one_class, sample_runs.SPLITS, "Which classes it confuses"),
        (
            sample_runs.split,
            {"dev": 1, "calibration": 1, "test": 1},
            "too few calibration images, 1:",
        ),
        (
            sample_runs.all_wrong,
            {"dev": 1, "calibration": 1, "test": 1},
            "right on 0 %",
        ),
    ],
)
def test_a_run_out_of_the_ordinary_has_a_sound_page(tmp_path, draw, sizes, part):
    folder = sample_runs.write(tmp_path, draw=draw, sizes=sizes)
    text = page.write(page.read(folder), sample_runs.gallery_split(folder)).read_text()
    assert_sound(text)
    assert part in plain(text)


def test_a_run_with_nothing_but_predictions_has_a_sound_page(written, tmp_path):
    shutil.copytree(written.folder, tmp_path / "bare")
    for name in ("metrics.jsonl", "shift.json", "teacher/metrics.jsonl"):
        (tmp_path / "bare" / name).unlink()
    run = page.read(tmp_path / "bare")
    for key in ("teacher", "correction"):
        del run.results[key]
    text = page.write(run._replace(guarantee=None)).read_text()
    assert_sound(text)
    for part in (
        "no threshold is certified",
        "so there are no training curves",
        "The test images were not at hand",
        "No error rate can be promised",
    ):
        assert part in plain(text)


def test_a_method_without_adjustment_does_not_claim_one(written, tmp_path):
    run = written.run._replace(identity=sample_runs.identity())
    run.identity["config"]["objective"]["method"] = "kd"
    text = plain(page.write(run, out=tmp_path / "kd.html").read_text())
    assert "This run's method, kd, learns from the teacher as it is." in text


def test_images_of_another_test_set_are_not_shown(written, tmp_path):
    other = sample_runs.gallery_split(written.folder)
    other.labels[0] = (other.labels[0] + 1) % 4
    with pytest.warns(UserWarning, match="not the run's: no galleries"):
        path = page.write(written.run, other, out=tmp_path / "other.html")
    assert "<img" not in path.read_text()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(written, tmp_path):
    (tmp_path / "taken").mkdir()
    for out in (tmp_path / "taken", tmp_path / "nowhere" / "page.html"):
        with pytest.raises(InputError, match="cannot be written"):
            page.write(written.run, out=out)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_a_page_that_fails_leaves_the_one_before(written, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("the page before")
    monkeypatch.setitem(written.run.results, "scores", {})
    with pytest.raises(KeyError):
        page.write(written.run, out=out)
    assert out.read_text() == "the page before"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
