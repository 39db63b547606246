"""The page of the comparison: tables of known numbers, incomplete results, and its generation."""

import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Sequence

import numpy as np
import pytest
from support.paper import (
    deployed,
    group_of,
    ranking_with_errors,
    write_job,
)

from experiments.paper import __main__ as paper
from experiments.paper import (
    collect,
    figures,
    formats,
    page,
    plan,
    result_files,
    summary,
    table,
    tables,
    training,
)

METHODS = ("ce", "kd", "ka", "gambler", "ka_gambler_sum")
# Errors of 200 on test with mirror views, with seed 0; one more with each further seed.
ERRORS = {"ce": 40, "kd": 30, "ka": 28, "gambler": 24, "ka_gambler_sum": 16}
PAGE = f"# A page\n\nWritten by hand.\n\n{page.MARKER}\n\nold tables\n{page.END}\n\n## Notes\n"
DOCS = pathlib.Path(__file__).parents[1] / "docs"


def write_known(
    out: pathlib.Path,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = METHODS,
    data: str = "cifar10",
) -> None:
    """Writes result files in which the least confident predictions are wrong.

    The out-of-fold teacher saves 4 errors, mirror views 2, dev has 1 more than test.
    """
    for job in plan.jobs([data], ["structure"], seeds):

        def ranking(
            method: str, views: str, score: str, split: str, job: plan.Job = job
        ) -> collect.Ranking:
            wrong = ERRORS[method] + job.seed - 4 * (job.teacher == plan.OUT_OF_FOLD)
            return ranking_with_errors(wrong + 2 * (views == "none") + (split == "dev"))

        write_job(out, job, plan.methods(job, methods), ranking)


def rows_of(one: tables.Table) -> dict[tuple[str, ...], list[str]]:
    """Returns the cells of numbers by those of words."""
    return {tuple(row[: one.words]): list(row[one.words :]) for row in one.rows}


def mean_sd(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def aurc_of(wrong: int) -> float:
    """Returns the AURC x 1000 of 200 predictions whose `wrong` least confident ones are wrong."""
    ranks = np.arange(1, 201)
    return 1000 * float(np.mean(np.maximum(ranks - (200 - wrong), 0) / ranks))


@pytest.fixture
def group(tmp_path: pathlib.Path) -> table.Group:
    write_known(tmp_path)
    (one,) = result_files.read(tmp_path)
    return one


def test_errors_at_coverage_are_those_of_the_most_confident(group: table.Group) -> None:
    found = rows_of(tables.at_coverage(group, collect.CHOSEN))
    wrong = [26, 27, 28]  # of kd with the out-of-fold teacher
    accepted = [200, 190, 180, 160, 140]
    errors = [[100 * max(w - (200 - k), 0) / k for w in wrong] for k in accepted]
    assert found["kd", "out-of-fold"] == [
        *map(mean_sd, errors),
        mean_sd([aurc_of(w) for w in wrong]),
    ]
    assert list(found) == [
        ("ce", "-"),
        ("gambler", "-"),
        ("ka", "in-sample"),
        ("ka", "out-of-fold"),
        ("ka_gambler_sum", "in-sample"),
        ("ka_gambler_sum", "out-of-fold"),
        ("kd", "in-sample"),
        ("kd", "out-of-fold"),
    ]
    # The least errors of all: 12, 13 and 14 of 200.
    assert found["ka_gambler_sum", "out-of-fold"][0] == f"**{mean_sd([6, 6.5, 7])}**"


def test_reservation_has_a_table_of_the_methods_that_abstain(group: table.Group) -> None:
    found = rows_of(tables.at_coverage(group, collect.RESERVATION))
    assert {method for method, _ in found} == {"gambler", "ka_gambler_sum"}


def test_teachers_and_views_are_side_by_side(group: table.Group) -> None:
    accuracies = [mean_sd([100 - w / 2 for w in wrong]) for wrong in ([30, 31, 32], [26, 27, 28])]
    cells = rows_of(tables.by_teacher(group))["kd",]
    assert cells[:2] == accuracies
    assert cells[2].startswith("+2.00 [")  # 4 of 200
    cells = rows_of(tables.by_views(group))["ce", "-"]
    assert cells[:2] == [mean_sd([79, 78.5, 78]), mean_sd([80, 79.5, 79])]
    assert cells[2].startswith("+1.00 [")


def test_differences_are_from_the_method_with_the_same_teacher(group: table.Group) -> None:
    found = rows_of(tables.differences(group, "kd"))
    means = {key: float(cells[0].split()[0]) for key, cells in found.items()}
    assert means == pytest.approx(
        {
            ("ce", "-"): -5.0,  # 40 errors against 30 with the in-sample teacher
            ("gambler", "-"): 3.0,
            ("ka", "in-sample"): 1.0,
            ("ka", "out-of-fold"): 1.0,  # 24 against 26
            ("ka_gambler_sum", "in-sample"): 7.0,
            ("ka_gambler_sum", "out-of-fold"): 7.0,
        }
    )
    assert all(cell.endswith("± 0.00") for cells in found.values() for cell in cells[:1])
    assert ("gambler", "-") not in rows_of(tables.differences(group, "gambler"))


def test_every_metric_is_listed_for_dev_and_test(group: table.Group) -> None:
    for split, more in (("dev", 1), ("test", 0)):
        one = tables.every_metric(group, split)
        assert len(one.rows) == len(group.rows)
        cells = rows_of(one)["ce", "-", "none", "chosen"]
        wrong = [42 + more + seed for seed in range(3)]
        assert cells[0] == mean_sd([100 - w / 2 for w in wrong])
        assert cells[1] == mean_sd([aurc_of(w) for w in wrong])


def test_teachers_are_listed_with_their_errors_on_train(group: table.Group) -> None:
    in_sample, out_of_fold = tables.teachers(
        group
    ).rows  # one line each, as all seeds have the same
    assert in_sample[:2] == ["in-sample", "0, 1, 2"]
    assert out_of_fold == ["out-of-fold", "0, 1, 2", "92.50", "90.00", "45 of 600", "7.50", "45"]
    text = page.markdown([group])
    assert "The in-sample teacher is wrong on 0.00 % of the training images" in text
    assert "The out-of-fold teacher is wrong on 7.50 % of the training images" in text


def test_dev_chooses_the_method(group: table.Group) -> None:
    sentence = page.recommendation(group)
    best = [aurc_of(13 + seed) for seed in range(3)]  # dev has one more error than test
    on_test = [aurc_of(12 + seed) for seed in range(3)]
    assert (
        "`ka_gambler_sum` with the out-of-fold teacher on mirror views has the lowest mean AURC "
        f"on dev ({mean_sd(best)}, on test {mean_sd(on_test)}; x 1000), over 3 seeds."
    ) in sentence
    row = tables.on_dev(group).rows[0]
    assert row[:4] == ["ka_gambler_sum", "out-of-fold", "flip", "doctor"]


def group_with_errors(errors: dict[str, tuple[int, ...]]) -> table.Group:
    """Returns networks without a teacher with a number of errors for each seed, on each split."""
    return group_of(
        {
            deployed(method): {
                (split, seed): ranking_with_errors(wrong)
                for seed, wrong in enumerate(of_seeds)
                for split in collect.SPLITS
            }
            for method, of_seeds in errors.items()
        }
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((20, 21, 22), (20, 22, 21), "3 seeds do not decide which of the two is better."),
        ((20,), (40,), "One seed cannot decide which of the two is better."),
        ((20, 21, 22), (40, 41, 43), ""),
    ],
)
def test_small_difference_of_the_best_by_dev_is_named(
    first: tuple[int, ...], second: tuple[int, ...], expected: str
) -> None:
    sentence = page.recommendation(group_with_errors({"ce": first, "gambler": second}))
    assert expected in sentence and ("of the two" in sentence) == bool(expected)


def test_dev_alone_decides_which_of_the_best_is_better() -> None:
    wrong = {"ce": {"dev": (20, 21), "test": (20, 21)}, "gambler": {"dev": (21, 20)}}
    wrong["gambler"]["test"] = (60, 61)
    rows = {
        deployed(method): {
            (split, seed): ranking_with_errors(errors)
            for split, of_seeds in of_splits.items()
            for seed, errors in enumerate(of_seeds)
        }
        for method, of_splits in wrong.items()
    }
    group = group_of(rows)
    on_test = group.differences(deployed("ce"), deployed("gambler"))[table.AURC]
    on_dev = group.differences(deployed("ce"), deployed("gambler"), "dev")[table.AURC]
    assert (on_test.sign, on_dev.sign) == (-1, 0)
    assert "2 seeds do not decide which of the two is better." in page.recommendation(group)


def test_networks_without_a_common_seed_are_not_compared_on_dev() -> None:
    rows = {
        deployed(method): {(split, seed): ranking_with_errors(20) for split in collect.SPLITS}
        for seed, method in enumerate(("ce", "gambler"))
    }
    assert "of the two" not in page.recommendation(group_of(rows))


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(1, "over images of one seed"), (2, "over images and seeds (of one point: over images)")],
)
def test_figure_says_over_what_its_intervals_are(seeds: int, words: str) -> None:
    cells = {("test", seed): ranking_with_errors(20 + seed) for seed in range(seeds)}
    group = group_of({deployed("ce"): cells, deployed("kd", "in_sample"): cells})
    assert words in figures.forest(group).get_supxlabel()
    assert ("one seed" in figures.caption(group, "differences")) == (seeds == 1)
    assert ("without ± of one seed" in tables.at_coverage(group, "chosen").title) == (seeds == 2)
    assert ("without ± of one seed" in tables.differences(group, "kd").title) == (seeds == 2)


def test_lowest_error_in_bold_is_one_of_ours() -> None:
    rows = {
        deployed(method): {("test", 0): ranking_with_errors(wrong)}
        for method, wrong in (("ce", 30), ("gambler", 20), ("gambler (PyTorch)", 10))
    }
    bold = [row[0] for row in tables.at_coverage(group_of(rows), "chosen").rows if "**" in row[2]]
    assert bold == ["gambler"]


def test_equal_accuracies_on_dev_are_both_named() -> None:
    errors = {"ce": (20, 22), "gambler": (21, 21), "ka_gambler_sum": (30,)}
    sentence = page.recommendation(group_with_errors(errors))
    (named,) = re.findall(r"\. ([^.]*`ce` on mirror .*) have the highest mean accuracy", sentence)
    assert "`gambler` on mirror views (89.50 ± 0.00" in named and "ka_gambler_sum" not in named


def test_training_is_described_from_the_recorded_command(group: table.Group) -> None:
    schedule, teachers = training.paragraphs(group)
    assert schedule == (
        "Plain cross-entropy without a teacher comes first, for 10 of the 30 epochs of a student, "
        "in `gambler` and `ka_gambler_sum`; the epochs with the teacher are 20 in "
        "`ka_gambler_sum`, 30 in `ka` and `kd`. The temperature is 4; the payoff of the gambler "
        "loss 2.2, the weight of the teacher's loss 1. None of these was tuned."
    )
    assert "from 8 augmented views of each image" in teachers


def test_teacher_that_all_seeds_share_is_named(group: table.Group, tmp_path: pathlib.Path) -> None:
    assert training.shared_teacher(group) == ""
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace("--budget=laptop", "--share-teacher"))
    (shared,) = result_files.read(tmp_path)
    assert (
        "all seeds share one in-sample teacher and one set of 5 out-of-fold teachers; neither "
        "standard deviations nor intervals contain the choice of the teacher; in-sample against "
        "out-of-fold is one teacher against one set."
    ) in page.trained([shared])[1]
    assert "one teacher of each kind for all seeds" in summary.text([shared])


def test_teachers_of_two_first_seeds_are_not_one_shared_by_all(
    group: table.Group, tmp_path: pathlib.Path
) -> None:
    for path in tmp_path.glob("*.json"):
        seeds = "2" if "seed2" in path.name else "0 1"
        options = f"--share-teacher --seeds {seeds}"
        path.write_text(path.read_text().replace("--budget=laptop", options))
    (apart,) = result_files.read(tmp_path)
    assert training.shared_teacher(apart) == ""
    assert "one teacher of each kind" not in summary.text([apart])


def test_published_figures_are_beside_ours(group: table.Group) -> None:
    found = rows_of(tables.published(group))
    ours = found["ka_gambler_sum with the out-of-fold teacher", "ours", "this page"]
    assert ours[0] == mean_sd([6, 6.5, 7])
    assert found["deep gamblers", "VGG-16-BN", "arXiv 1907.00208"] == [
        "6.12",
        "3.49",
        "2.19",
        "0.66",
        "0.43",
        "-",
    ]
    assert found["SURE", "ResNet18, 3 runs", "arXiv 2403.00543"] == [
        "3.86",
        "-",
        "-",
        "-",
        "-",
        "2.97",
    ]


def test_complete_results_lack_only_what_no_file_has(group: table.Group) -> None:
    jobs, missing, svhn = page.trained([group])
    assert "in-sample teacher, seeds 0, 1, 2 (ce, gambler, ka, ka_gambler_sum, kd);" in jobs
    assert "out-of-fold teacher, seeds 0, 1, 2 (ka, ka_gambler_sum, kd)." in jobs
    assert missing.startswith("Missing: cifar10, setting depth; fashion_mnist")
    assert "the methods `dkd`, `dist`, `rld`, `kd_gambler`" in missing
    assert "payoffs chosen on dev for cifar10, setting structure;" in missing
    assert missing.endswith("; networks trained in another library.")
    assert "1,083" in svhn


def test_incomplete_results_give_a_page_that_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    write_known(tmp_path, seeds=[0])
    write_known(tmp_path, seeds=[1], methods=["ce", "kd"])
    (tmp_path / "cifar10-structure-out_of_fold-seed1.json").unlink()
    text = page.markdown(result_files.read(tmp_path))
    (line,) = (line for line in text.splitlines() if "structure, missing:" in line)
    assert "the out-of-fold teacher of seed 1" in line
    assert "gambler, ka, ka_gambler_sum of seed 1, in-sample teacher" in line
    assert "1 of 3 seeds" in line
    assert "nan" not in text


@pytest.mark.slow
@pytest.mark.parametrize("methods", [["ce"], ["gambler"], ["kd"], ["ka", "ka_gambler_sum"]])
def test_few_methods_of_one_seed_give_a_page_and_figures(
    methods: list[str], tmp_path: pathlib.Path
) -> None:
    write_known(tmp_path, seeds=[0], methods=methods, data="svhn")
    if methods[0] in ("ce", "gambler"):  # a job without a method is not trained
        (tmp_path / "svhn-structure-out_of_fold-seed0.json").unlink()
    groups = result_files.read(tmp_path)
    text = page.markdown(groups)
    assert "only 1,083" not in text and "| nan" not in text
    assert formats.latex(groups) and formats.as_csv(groups)
    assert len(figures.write(groups, tmp_path / "images")) == 2


def test_networks_of_other_code_are_beside_ours_of_the_same_seed(tmp_path: pathlib.Path) -> None:
    write_known(tmp_path)
    job = plan.Job("cifar10", "structure", plan.IN_SAMPLE, 1)
    name = "gambler (PyTorch)"
    write_job(
        tmp_path,
        job,
        [name],
        lambda *_: ranking_with_errors(31),
        name="torch",
        needs_teacher={name: False},
        teacher={},
    )
    (group,) = result_files.read(tmp_path)
    cells = rows_of(tables.baselines(group))[name, "-"]
    assert cells[:2] == ["87.50", "84.50"]  # 25 errors of ours with seed 1
    assert cells[2].startswith("-3.00 [")
    assert name not in page.recommendation(group)
    missing = next(line for line in page.trained([group]) if line.startswith("Missing"))
    assert name not in page.trained([group])[0] and "another library" not in missing
    assert "; in another library: " in page.trained([group])[0]


@pytest.mark.slow
def test_page_keeps_what_is_written_by_hand(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, file, images = (tmp_path / name for name in ("results", "docs/page.md", "images"))
    for folder in (results, file.parent):
        folder.mkdir()
    write_known(results, seeds=[0, 1])
    file.write_text(PAGE)
    arguments = ["table", f"--out={results}", f"--page={file}", f"--folder={images}"]
    paper.main(arguments)
    text = file.read_text()
    assert text.startswith("# A page\n\nWritten by hand.") and text.endswith("\n\n## Notes\n")
    assert "old tables" not in text
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert links == [f"../images/cifar10-structure-{name}.svg" for name in figures.CAPTIONS]
    assert all((file.parent / link).exists() for link in links)
    paper.main(arguments)
    assert file.read_text() == text
    assert capsys.readouterr().out == ""


def test_page_without_the_line_is_not_changed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_known(tmp_path, seeds=[0], methods=["kd"])
    file = tmp_path / "page.md"
    for text in ("all by hand\n", f"by hand\n{page.MARKER}\n", f"{page.END}\n{page.MARKER}\n"):
        file.write_text(text)
        with pytest.raises(SystemExit):
            paper.main(["table", f"--out={tmp_path}", f"--page={file}"])
        assert "has no line" in capsys.readouterr().err
        assert file.read_text() == text


@pytest.mark.slow
def test_figures_show_every_network_of_the_forest(
    group: table.Group, tmp_path: pathlib.Path
) -> None:
    curves, forest = figures.write([group], tmp_path)
    texts = [
        element.text
        for path in (curves, forest)
        for element in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]
    for row in group.judged():
        label = f"{row.method}, {row.teacher.replace('_', '-')}" if row.teacher else row.method
        assert label in texts
    again = tmp_path / "again"
    assert figures.write([group], again)[1].read_text() == forest.read_text()


def test_cells_of_latex_are_escaped_and_in_math_mode() -> None:
    one = tables.Table(
        "T", ["a_b", "c", "d %"], [["x_y", "-", "**1.00 ± 0.10**"], ["z", "2 of 3", "-"]], 1
    )
    group = group_of({deployed("ce"): {(s, 0): ranking_with_errors(9) for s in collect.SPLITS}})
    text = formats.tabular("T", one)
    assert "a\\_b & c & d \\% \\\\" in text
    assert "x\\_y & - & $\\mathbf{1.00 \\pm 0.10}$ \\\\" in text
    assert "z & 2 of 3 & - \\\\" in text
    assert formats.latex([group]).count("\\toprule") == formats.latex([group]).count("\\bottomrule")


def test_result_files_of_the_campaign_fit_in_20_megabytes(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("dev", 5000), ("test", 10000)):
        one = collect.ranking(rng.normal(size=count), rng.random(count) < 0.93)
        arrays |= {f"{split}/rank": one.rank, f"{split}/correct": one.correct}
    collect.write_compressed(tmp_path / "one.npz", arrays)
    jobs, methods, views, scores = 12, 9, 2, 2
    assert jobs * methods * views * scores * (tmp_path / "one.npz").stat().st_size < 20e6


def test_page_of_the_documentation_can_be_generated() -> None:
    text = (DOCS / "results" / "comparison.md").read_text()
    assert text.count(page.MARKER) == text.count(page.END) == 1


@pytest.mark.slow
@pytest.mark.skipif(not list(paper.RESULTS.glob("*.json")), reason="there are no result files")
def test_rankings_of_the_result_files_give_their_recorded_aurc() -> None:
    found, recorded = {}, {}
    for group in result_files.read(paper.RESULTS):
        for record in group.records:
            job = record["job"]
            for method, by_views in record["students"].items():
                teacher = job["teacher"] if record["needs_teacher"][method] else ""
                for views, results in by_views.items():
                    row = table.Row(method, teacher, views, collect.CHOSEN)
                    key = (group.title, row, job["seed"])
                    values = group.values(row, "test", [job["seed"]])
                    found[key] = values[table.AURC][0]
                    recorded[key] = 1000 * results["scores"][results["best_score"]]["aurc"]
    assert found == pytest.approx(recorded, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not list(paper.RESULTS.glob("*.json")), reason="there are no result files")
def test_page_of_the_documentation_is_that_of_the_result_files() -> None:
    text = (DOCS / "results" / "comparison.md").read_text()
    expected = page.markdown(result_files.read(paper.RESULTS), "../images/paper")
    generated = text.partition(page.MARKER)[2].partition(page.END)[0]
    assert generated.strip() == expected.strip()
