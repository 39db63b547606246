"""Runs on own images: from pictures to an exported model that sees the same pixels."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from support import pictures
from support.commands import ROOT
from support.runs import final_arrays, get_config
from support.tiny_network import TINY_NETWORK

import kdjax.config
from kdjax import pipeline, predict
from kdjax.data import Dataset, dataset_metadata
from kdjax.errors import InputError
from kdjax.evaluation import evaluate, robustness
from kdjax.export import formats
from kdjax.export.exporter import export
from kdjax.predict.images import read_images
from kdjax.runs import restore, workdir
from kdjax.runtime import atomic_io

# The warning of a model that no threshold could be certified for: the test set is tiny.
pytestmark = pytest.mark.filterwarnings("ignore:.*abstains on every image:UserWarning")


@pytest.fixture(scope="module")
def folders(shared_folder: Callable[..., pathlib.Path]) -> pathlib.Path:
    """Folders `album`, of 4 x 20 drawn pictures and five broken files, and `cache`, empty."""

    def draw(folder: pathlib.Path) -> None:
        pictures.make_folder(folder / "album", count=20)
        (folder / "cache").mkdir()

    return shared_folder("own_images", draw)


def small(folders: pathlib.Path, **changes: Any) -> ConfigDict:
    """Returns the config of own images, shrunk to a second of training, resolved."""
    config = get_config(ROOT / "configs" / "own_images.py")
    fields = {
        "data.name": f"folder:{folders / 'album'}",
        "data.dir": str(folders / "cache"),
        "data.image_size": 12,
        "smoke": True,
        "objective.method": "gambler",
        "objective.pretrain_epochs": 0,
        "student.model": TINY_NETWORK,
    }
    config.update_from_flattened_dict({**fields, **changes})
    return kdjax.config.resolve(config)


@pytest.fixture(scope="module")
def run(
    folders: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, Dataset]:
    folder = tmp_path_factory.mktemp("own") / "run"
    dataset = pipeline.train(small(folders), folder)
    evaluate.evaluate(folder, dataset)
    return folder, dataset


@pytest.mark.slow
def test_run_on_a_streamed_csv_is_bit_identical(
    run: tuple[pathlib.Path, Dataset], folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder, _ = run
    shutil.copytree(folders / "album", tmp_path / "album")
    name = f"csv:{pictures.make_csv(tmp_path / 'album')}"
    config = small(folders, **{"data.name": name, "data.pipeline": "stream"})
    pipeline.train(config, tmp_path / "run")
    (steps, expected), (csv_steps, actual) = map(final_arrays, (folder, tmp_path / "run"))
    assert steps == csv_steps > 0
    for left, right in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_exported_model_sees_the_pixels_of_training(
    run: tuple[pathlib.Path, Dataset],
    folders: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, dataset = run
    monkeypatch.setattr(formats, "FORMATS", {formats.STABLEHLO: formats.FORMATS[formats.STABLEHLO]})
    card = export(folder, tmp_path / "model")
    assert card["classes"] == list(pictures.CLASSES)
    assert card["input"]["shape"] == [12, 12, 3] and card["input"]["fit"] == "pad"
    assert card["data"] == {"name": "folder:album", "version": dataset.version}
    model = predict.load(tmp_path / "model")
    errors: list[str] = []
    images = list(
        read_images([str(folders / "album")], model.image_shape, errors.append, resize=model.resize)
    )
    assert len(images) == 80 and len(errors) == len(pictures.BROKEN)
    logits = {
        image.pixels.tobytes(): row
        for image, row in zip(
            images, model(np.stack([i.pixels for i in images])).logits, strict=True
        )
    }
    limited = restore.load_dataset(folder)
    expected = np.load(folder / "predictions" / "test.npz")["logits"]
    actual = np.stack([logits[image.tobytes()] for image in limited.test.images])
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.slow
def test_other_pictures_are_compared_with_those_of_the_run(
    run: tuple[pathlib.Path, Dataset], folders: pathlib.Path
) -> None:
    name = f"folder:{folders / 'album'}"
    shifts = robustness.evaluate_shifts(run[0], [f"ood:{name}"])
    splits = [getattr(run[1], split) for split in ("train", "dev", "calibration", "test")]
    assert shifts["ood"][name]["examples"] == sum(len(split.labels) for split in splits)
    assert shifts["ood"][name]["fitted"] == "each to 12x12, RGB (pad)"


def write_metadata(folder: pathlib.Path, config: ConfigDict, stage: str, **dataset: Any) -> None:
    """Writes the `config.json` of a run on a config's data set, with changed metadata."""
    metadata = dataset_metadata(restore.load_data(config)) | dataset
    atomic_io.write_json(folder / "config.json", workdir.run_metadata(config, stage, metadata))


@pytest.mark.parametrize("inside", ["run", "circle/run"])
def test_workdir_among_the_pictures_is_refused(folders: pathlib.Path, inside: str) -> None:
    with pytest.raises(InputError, match=r"workdir .* lies in the folder of your own images"):
        pipeline.train(small(folders), folders / "album" / inside)
    assert not (folders / "album" / inside).exists()


def test_teacher_of_the_same_pictures_in_another_form_is_accepted(
    tmp_path: pathlib.Path, folders: pathlib.Path
) -> None:
    write_metadata(tmp_path, small(folders), "teacher")
    other = dataclasses.replace(restore.load_data(small(folders)), name="npz:pictures.npz")
    config = small(folders).to_dict()["data"]
    workdir.check_teacher(tmp_path, other, config)
    with pytest.raises(InputError, match=r"data\.version"):
        workdir.check_teacher(tmp_path, dataclasses.replace(other, version="0" * 16), config)


def test_changed_pictures_are_refused(folders: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write_metadata(tmp_path, small(folders), "student", version="0" * 16)
    changed = f"made with other data; .*version: '{'0' * 16}' -> '[0-9a-f]{{16}}'"
    for load in (restore.load_dataset, restore.check_own_images):
        with pytest.raises(InputError, match=changed):
            load(tmp_path)


def test_results_of_pictures_that_are_gone_are_not_refused(
    folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_metadata(tmp_path, small(folders), "student", version="0" * 16)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("/album", "/gone"))
    restore.check_own_images(tmp_path)


def test_other_fractions_of_the_teacher_are_refused(
    folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # A teacher of another cut would have been trained on test images of the student.
    write_metadata(tmp_path / "teacher", small(folders, **{"data.test_fraction": 0.5}), "teacher")
    fields = {"objective.method": "kd", "teacher.workdir": str(tmp_path / "teacher")}
    with pytest.raises(InputError, match=r"data\.test_fraction: 0\.5 -> 0\.2"):
        pipeline.train(small(folders, **fields), tmp_path / "student")


def test_invalid_pictures_are_refused_before_anything_is_written(
    folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    config = small(folders, **{"data.name": f"folder:{tmp_path / 'pictures'}"})
    with pytest.raises(InputError, match=r"no image in class folder 'cats' \(it is empty\)"):
        pipeline.train(config, tmp_path / "run")
    assert not any((tmp_path / "run").iterdir())
