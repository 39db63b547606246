"""A sweep of tiny networks: the choice, the seeds, resuming, and the commands on its workdir."""

import contextlib
import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from support.runs import checkpoint, final_arrays, stop_at_step, tiny

from kdjax import main, pipeline, sweep
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import predictions
from kdjax.report import console, page
from kdjax.runs import restore, sweeps

NAMES = ["method=ce,payoff=2.0", "method=ka_gambler_sum,payoff=2.0"]
NAMES += [name.replace("2.0", "6.0") for name in NAMES]
SWEEP = {"objective.payoff": (2, 6), "objective.method": ("ce", "ka_gambler_sum")}
pytestmark = pytest.mark.slow


def config(data_dir: pathlib.Path, **changes: Any) -> ConfigDict:
    return tiny(data_dir, sweep=SWEEP, sweep_seeds=2, **{"student.learning_rate": 0.3, **changes})


def dev_aurc(folder: pathlib.Path) -> float:
    """Returns the lowest AURC on dev of the scores of a student, from `results.json`."""
    scores = json.loads((folder / "results.json").read_text())["scores"]
    return min(values["dev_aurc"] for values in scores.values())


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> pathlib.Path:
    """A sweep that was stopped in its settings, and again between the choice and the seeds."""
    folder = tmp_path_factory.mktemp("sweep") / "run"
    fields = config(data_dir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 6)
        sweep.run(fields, folder)
    assert not (folder / "sweep.json").exists()

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "train_students", only_first(pipeline.train_students, kill))
        sweep.run(fields, folder)
    assert sweeps.read(folder)["seeds"] == [] and not (folder / "chosen").exists()
    assert sweep.finished_results(fields, folder) is None
    before = {name: results_time(folder / "students" / name) for name in NAMES}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _, results = sweep.run(fields, folder)
    chosen = sweeps.read(folder)["chosen"]
    assert f"chosen on dev: {chosen}; it is trained again with seeds 1, 2\n" in printed.getvalue()
    assert {name: results_time(folder / "students" / name) for name in NAMES} == before
    assert sweep.finished_results(fields, folder) == results
    return folder


def only_first(function: Any, other: Any) -> Any:
    """Returns a function that is another one from its second call on."""
    functions = iter([function])
    return lambda *args, **kwargs: next(functions, other)(*args, **kwargs)


def results_time(folder: pathlib.Path) -> int:
    return (folder / "results.json").stat().st_mtime_ns


def test_the_setting_with_the_lowest_aurc_on_dev_is_chosen(run: pathlib.Path) -> None:
    table = sweeps.read(run)
    assert sorted(row["name"] for row in table["settings"]) == sorted(NAMES)
    areas = {name: dev_aurc(run / "students" / name) for name in NAMES}
    assert table["chosen"] == min(areas, key=areas.__getitem__)
    for row in table["settings"]:
        assert row["dev"]["aurc"] == areas[row["name"]]
        dev = predictions.load(run / "students" / row["name"] / "predictions/dev.npz")
        assert row["dev"]["accuracy"] == np.mean(dev.logits[:, :-1].argmax(axis=1) == dev.labels)
        method, payoff = row["changes"]["objective.method"], row["changes"]["objective.payoff"]
        assert row["name"] == f"method={method},payoff={payoff}"
        assert (row["dev"]["abstained"] is None) == (method == "ce")


def test_the_chosen_setting_is_trained_with_the_other_seeds_and_the_same_teacher(
    run: pathlib.Path,
) -> None:
    table = sweeps.read(run)
    setting = restore.load_config(run / "students" / table["chosen"])
    for seed, row in zip((1, 2), table["seeds"], strict=True):
        folder = run / "chosen" / "students" / f"seed={seed}"
        repeated = restore.load_config(folder)
        assert repeated.seed == seed and repeated.objective == setting.objective
        assert row["dev"]["aurc"] == dev_aurc(folder)
        if "gambler" in table["chosen"]:
            assert (folder / "teacher").resolve() == (run / "teacher").resolve()
        assert checkpoint(folder, "latest").step == 8
        assert any(
            not np.array_equal(a, b)
            for a, b in zip(
                final_arrays(folder)[1],
                final_arrays(run / "students" / table["chosen"])[1],
                strict=True,
            )
        )
    values = [row["test"]["accuracy"] for row in table["seeds"]]
    assert table["mean"]["test"]["accuracy"] == pytest.approx(np.mean(values))
    assert table["deviation"]["test"]["accuracy"] == pytest.approx(np.std(values, ddof=1))


def test_another_sweep_in_the_same_workdir_is_refused(run: pathlib.Path, data_dir) -> None:
    for changes, field in (
        ({"sweep": {"objective.payoff": (2, 5)}}, "sweep"),
        ({"sweep_metric": "accuracy"}, "sweep_metric: 'aurc' -> 'accuracy'"),
        ({"sweep_seeds": 3}, "sweep_seeds: '1,2,' -> '1,2,3,'"),
    ):
        other = tiny(
            data_dir,
            **{"sweep": SWEEP, "sweep_seeds": 2, "student.learning_rate": 0.3, **changes},
        )
        with pytest.raises(InputError, match=f"belongs to another config.*{field}"):
            sweep.finished_results(other, run)


def test_the_workdir_of_a_sweep_stands_for_its_chosen_setting(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = run / "students" / sweeps.read(run)["chosen"]
    assert sweeps.resolve(run) == chosen and sweeps.resolve(chosen) == chosen
    assert capsys.readouterr().out == f"{run} is a sweep: its chosen setting is {chosen}\n"
    with pytest.raises(InputError, match=rf"the sweep chose {chosen.name}"):
        restore.restore(run)


def test_console_and_page_show_the_table_with_the_chosen_setting_first(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = sweeps.read(run)
    chosen = table["chosen"]
    results = json.loads((run / "students" / chosen / "results.json").read_text())
    console.show_sweep(table, results, "digits")
    printed = capsys.readouterr().out
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│ ")]
    settings = [[cell.strip() for cell in row[1:-1]] for row in rows if "method=" in row[1]]
    areas = sorted(row["dev"]["aurc"] for row in table["settings"])
    assert settings[0][0] == f"{chosen} *"
    assert [row[1] for row in settings[:4]] == [f"{1000 * area:.2f}" for area in areas]
    for text in ("seed=1", "mean", "standard deviation"):
        assert any(row[1].strip() == text for row in rows)
    joined = " ".join(printed.split())
    assert "the certificate of the chosen setting holds at its own delta" in joined
    runs = [
        page.read(folder) for folder in pipeline.student_workdirs(restore.load_config(run), run)
    ]
    text = page.write_sweep(run, runs, run / "page.html").read_text()
    text = text.replace("<wbr>", "")
    assert f'<th scope="row">{chosen} *</th>' in text and f"1: {chosen[:31]}" in text
    assert "standard deviation" in text


def test_a_finished_sweep_is_only_printed(
    run: pathlib.Path, data_dir, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = config(data_dir)
    results = sweep.finished_results(fields, run)
    assert results and len(results) == 6
    main._print_results(fields, run, results)
    printed = capsys.readouterr().out
    chosen = sweeps.read(run)["chosen"]
    assert f"chosen setting with other seeds: {run / 'chosen'}" in printed
    assert f"--workdir={run / 'students' / chosen}" in printed


def test_an_unfinished_sweep_is_one_line(data_dir, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"stage": "students", "config": config(data_dir).to_dict(), "dataset": {}})
    )
    with pytest.raises(InputError, match=r"the sweep in .* is not finished"):
        sweeps.resolve(tmp_path)
