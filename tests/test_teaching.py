"""The table of a frozen teacher's logits, against a teacher that can be followed by hand."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import BATCH, CLASSES, COUNT, SHAPE, Linear, order, recipe, split, steps_of
from test_train import arrays, tiny

from kdjax import step, teaching, together, train
from kdjax.data import Dataset
from kdjax.data.batches import Ordered
from kdjax.teaching import Master

MEAN, STD = np.full(1, 0.5, np.float32), np.full(1, 0.3, np.float32)


@pytest.fixture
def dataset() -> Dataset:
    parts = dict.fromkeys(("train", "dev", "calibration", "test"), split())
    return Dataset(
        **parts, name="toy", version="1.0.0", class_names=("a", "b", "c"),
        mean=MEAN, std=STD,
    )  # fmt: skip


@pytest.fixture
def teacher(tmp_path: pathlib.Path) -> Master:
    model = Linear(CLASSES)
    variables = model.init(jax.random.key(5), jnp.zeros((1, *SHAPE)), train=False)
    return Master(model, variables, tmp_path)


def table(teacher: Master, dataset: Dataset, **changes: Any) -> np.ndarray:
    examples = step.to_device(dataset.train, MEAN, STD)
    found = teaching.table(teacher, dataset, examples, recipe(**changes))
    return np.asarray(found.logits)


def test_the_table_has_a_row_for_every_view_of_every_image(teacher, dataset) -> None:
    found = table(teacher, dataset, pad=1, flip=True)
    dense = teacher.variables["params"]["Dense_0"]
    padded = np.pad(split().images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = 0
    for top in range(3):
        for left in range(3):
            crop = padded[:, top : top + 8, left : left + 8]
            for images in (crop, crop[:, :, ::-1]):
                x = (images.reshape(COUNT, -1) / 255 - 0.5) / 0.3
                expected = x @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
                np.testing.assert_allclose(found[view], expected, rtol=1e-4, atol=1e-5)
                view += 1
    assert found.shape == (view, COUNT, CLASSES) == (18, COUNT, CLASSES)


def test_shuffled_epochs_from_the_table_are_those_of_the_living_teacher(teacher, dataset) -> None:
    plan = recipe(pad=1, flip=True, teacher=teacher.model)
    examples = step.to_device(dataset.train, MEAN, STD)
    ends = []
    for asked in (step.Live(teacher.variables), teaching.table(teacher, dataset, examples, plan)):
        run, states = together.train_steps([plan]), (step.init_state(plan, SHAPE),)
        for epoch in range(3):
            for _ in range(COUNT // BATCH):
                states, _ = run(states, Ordered(examples, order(epoch)), asked, 1)
        ends.append(states)
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # And the rows matter: of another order they lead elsewhere.
    wrong = step.Table(teaching.table(teacher, dataset, examples, plan).logits[:, ::-1])
    run, states = together.train_steps([plan]), (step.init_state(plan, SHAPE),)
    states, _ = run(states, Ordered(examples, order()), wrong, 1)
    right, _ = steps_of(plan)(
        step.init_state(plan, SHAPE), Ordered(examples, order()), teacher.variables, 1
    )
    kernels = [s.variables["params"]["Dense_0"]["kernel"] for s in (states[0], right)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_it_is_computed_once_and_again_where_anything_differs(
    teacher, dataset, monkeypatch
) -> None:
    first = table(teacher, dataset)
    calls, compute = [], teaching._compute
    monkeypatch.setattr(teaching, "_compute", lambda *args: calls.append(1) or compute(*args))
    np.testing.assert_array_equal(table(teacher, dataset), first)
    np.testing.assert_array_equal(table(teacher, dataset, seed=9, order_seed=9), first)
    assert calls == []
    other_weights = jax.tree.map(lambda leaf: leaf + 1e-3, teacher.variables)
    other_images = dataclasses.replace(dataset, train=split(seed=1))
    table(teacher._replace(variables=other_weights), dataset)
    table(teacher, other_images)
    table(teacher, dataset, flip=True)
    assert len(calls) == 3
    assert len(list((teacher.folder / "logits").iterdir())) == 4


def test_a_damaged_table_is_told_and_computed_anew(teacher, dataset) -> None:
    first = table(teacher, dataset)
    (path,) = (teacher.folder / "logits").iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", whole[:-300] + b"x" + whole[-299:]):
        path.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="is damaged: the logits are computed anew"):
            np.testing.assert_array_equal(table(teacher, dataset), first)
        assert path.read_bytes() == whole


def test_where_it_cannot_be_kept_it_is_used_all_the_same(teacher, dataset, tmp_path) -> None:
    first = table(teacher, dataset)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "logits").write_text("where a folder should be")
    with pytest.warns(RuntimeWarning, match="cannot be written .*: the next student computes"):
        found = table(teacher._replace(folder=elsewhere), dataset)
    np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize(
    ("pad", "flip", "classes", "examples", "epochs", "reason"),
    [
        (0, False, 10, 50_000, 1, ""),
        (0, True, 10, 50_000, 2, ""),
        (0, True, 10, 50_000, 1, "an image has 2 views, and the teacher is asked in 1 epochs"),
        (4, True, 10, 50_000, 161, "an image has 162 views, and the teacher is asked in 161 epo"),
        (4, True, 10, 50_000, 162, ""),
        (4, True, 100, 50_000, 200, "they would take 3.0 GiB on every device"),
    ],
)
def test_a_table_pays_where_an_image_has_fewer_views_than_it_is_shown(
    pad, flip, classes, examples, epochs, reason
) -> None:
    found = teaching.idle(recipe(pad=pad, flip=flip, classes=classes), examples, epochs)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_a_run_with_and_without_the_table_ends_alike(data_dir, tmp_path, capsys) -> None:
    ends = []
    for cache in ("auto", "off"):
        config = tiny(
            data_dir,
            **{"teacher.cache": cache, "data.pad": 0, "objective.pretrain_epochs": 1,
               "teacher.workdir": str(tmp_path / "auto") if cache == "off" else ""},
        )  # fmt: skip
        train.run(config, tmp_path / cache)
        ends.append(arrays(tmp_path / cache)[1])
    assert len(list((tmp_path / "auto" / "teacher" / "logits").iterdir())) == 1
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert "computed in every step" not in capsys.readouterr().out
    train.run(tiny(data_dir, **{"data.pad": 1}), tmp_path / "many views")
    assert "computed in every step, not once: an image has 9 views" in capsys.readouterr().out
