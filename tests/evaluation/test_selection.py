"""The choice of a setting on dev, and the rows of the table of a sweep."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from support import sample_runs

from kdjax.errors import InputError
from kdjax.evaluation import predictions, selection


def setting(name: str, aurc: float, accuracy: float) -> selection.Row:
    return {"name": name, "dev": {"aurc": aurc, "accuracy": accuracy}}


NAN = math.nan
ROWS = [
    setting("a", 0.2, 0.7),
    setting("b", 0.1, 0.7),
    setting("c", 0.1, 0.8),
    setting("d", 0.3, 0.9),
]


@pytest.mark.parametrize(
    ("rows", "by_aurc", "by_accuracy"),
    [
        (ROWS, ["c", "b", "a", "d"], ["d", "c", "b", "a"]),
        ([setting("y", 0.1, 0.5), setting("x", 0.1, 0.5)], ["y", "x"], ["y", "x"]),
        (
            [setting("a", NAN, 1.0), setting("b", 0.5, NAN), setting("c", 0.9, 0.1)],
            ["c", "a", "b"],
            ["c", "a", "b"],
        ),
    ],
    ids=("ties by the other metric", "equal: the first", "never one that is not finite"),
)
def test_settings_are_ranked_by_their_metric_on_dev(
    rows: list[selection.Row], by_aurc: list[str], by_accuracy: list[str]
) -> None:
    for metric, names in (("aurc", by_aurc), ("accuracy", by_accuracy)):
        assert [row["name"] for row in selection.rank(rows, metric)] == names
        assert selection.choose(rows, metric) == names[0]


def test_without_a_finite_setting_none_is_chosen() -> None:
    with pytest.raises(InputError, match="no setting of the sweep has a finite AURC"):
        selection.choose([setting("a", NAN, 1.0)], "accuracy")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[pathlib.Path, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("settings")
    folders = [sample_runs.write(root / f"seed={seed}", seed=seed) for seed in (1, 2, 3)]
    return [(folder, json.loads((folder / "results.json").read_text())) for folder in folders]


def test_a_row_has_the_metrics_of_the_predictions(rows: Any) -> None:
    folder, results = rows[0]
    results["best_score"] = "margin_log"
    row = selection.row(folder, results)
    assert row["name"] == "seed=1" and row["score"] == "margin_log"
    for split, area in (("dev", "dev_aurc"), ("test", "aurc")):
        logits, labels, _ = predictions.load(folder / "predictions" / f"{split}.npz")
        classes = np.exp(np.float64(logits[:, :-1]))
        ordered = np.sort(classes / classes.sum(axis=1, keepdims=True), axis=1)
        wrong = logits[:, :-1].argmax(axis=1) != labels
        most_confident_first = wrong[np.argsort(ordered[:, -2] - ordered[:, -1])]
        for coverage in (0.9, 0.8):
            accepted = most_confident_first[: round(coverage * len(labels))]
            name = f"error_at_{100 * coverage:g}"
            assert row[split][name] == pytest.approx(accepted.mean(), abs=1e-9)
        assert row[split]["accuracy"] == pytest.approx(1 - wrong.mean())
        risks = np.cumsum(most_confident_first) / np.arange(1, len(labels) + 1)
        assert row[split]["aurc"] == pytest.approx(risks.mean(), abs=1e-6)
        assert row[split]["aurc"] == results["scores"]["margin_log"][area]


def test_abstained_is_that_of_the_results_or_none(rows: Any) -> None:
    folder, results = rows[0]
    assert selection.row(folder, results)["dev"]["abstained"] is None
    results = {**results, "dev": {**results["dev"], "abstained": 0.25}}
    assert selection.row(folder, results)["dev"]["abstained"] == 0.25


def test_mean_and_deviation_over_seeds(rows: Any) -> None:
    repeated = [selection.row(*each) for each in rows]
    repeated[0]["dev"]["abstained"] = 0.5  # None for the others
    mean, deviation = selection.mean_and_deviation(repeated)
    for split in ("dev", "test"):
        for name in ("aurc", "accuracy", "error_at_90", "error_at_80"):
            values = [row[split][name] for row in repeated]
            assert mean[split][name] == pytest.approx(np.mean(values))
            assert deviation[split][name] == pytest.approx(np.std(values, ddof=1))
        assert mean[split]["abstained"] is None and deviation[split]["abstained"] is None
    mean, deviation = selection.mean_and_deviation(repeated[:1])
    assert mean["dev"] == repeated[0]["dev"] and set(deviation["test"].values()) == {None}
