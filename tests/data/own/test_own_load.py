"""Loading of own images: the same bits from every source, cache, streaming, broken files."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
from support import pictures

from kdjax import data
from kdjax.data.own import decoding, parse, read_labelled
from kdjax.errors import InputError
from kdjax.predict.images import read_images

SPLITS = ("train", "dev", "calibration", "test")
Make = Callable[..., pathlib.Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(cache: pathlib.Path) -> Callable[..., data.Dataset]:
    return lambda name, **options: data.load(name, **{"data_dir": cache, **options})


@pytest.fixture
def dataset(album: pathlib.Path, load: Callable[..., data.Dataset]) -> data.Dataset:
    return load(f"folder:{album}", image_size=16)


def assert_same(a: data.Dataset, b: data.Dataset) -> None:
    for name in SPLITS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(np.asarray(left.images), np.asarray(right.images))
        np.testing.assert_array_equal(left.labels, right.labels)
    np.testing.assert_array_equal((a.mean, a.std), (b.mean, b.std))
    assert (a.version, a.class_names, a.fit) == (b.version, b.class_names, b.fit)


def test_folder_csv_npz_and_stream_give_the_same_bits(
    album: pathlib.Path,
    dataset: data.Dataset,
    load: Callable[..., data.Dataset],
    tmp_path: pathlib.Path,
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(album, copy)
    assert_same(load(f"folder:{album}", image_size=16, stream=True), dataset)
    assert_same(load(f"csv:{pictures.make_csv(copy)}", image_size=16), dataset)
    order = np.random.default_rng(0).permutation(48)
    parts = [getattr(dataset, name) for name in SPLITS]
    images, labels = (
        np.concatenate([getattr(part, field) for part in parts])[order]
        for field in ("images", "labels")
    )
    names = np.array(dataset.class_names)
    for form, values in (("integers", {"labels": labels, "class_names": names}),
                         ("names", {"labels": names[labels]})):  # fmt: skip
        np.savez(tmp_path / f"{form}.npz", images=images, **values)
        for options in ({}, {"stream": True}, {"image_size": 16}):
            assert_same(load(f"npz:{tmp_path / form}.npz", **options), dataset)


def fitted(path: pathlib.Path, shape: tuple[int, int, int], how: str) -> np.ndarray:
    """Returns the pixels of a picture as prediction reads it."""
    lines: list[str] = []
    (image,) = read_images([str(path)], shape, lines.append, resize=how)
    assert not lines
    return image.pixels


def test_pixels_are_those_of_prediction(
    album: pathlib.Path, dataset: data.Dataset, load: Callable[..., data.Dataset]
) -> None:
    for how in ("pad", "crop"):
        loaded = load(f"folder:{album}", image_size=16, fit=how)
        assert data.dataset_metadata(loaded)["fit"] == how
        trained = {
            (image.tobytes(), loaded.class_names[label])
            for split in (getattr(loaded, name) for name in SPLITS)
            for image, label in zip(split.images, split.labels, strict=True)
        }
        broken = {album / name for name in pictures.BROKEN}
        predicted = {
            (fitted(path, (16, 16, 3), how).tobytes(), path.parent.name)
            for path in album.glob("*/*")
            if path not in broken
        }
        assert trained == predicted and len(trained) == 48


def test_broken_files_are_listed_and_left_out(
    album: pathlib.Path, load: Callable[..., data.Dataset], capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load(f"folder:{album}", image_size=16)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("5 of 53 images cannot be read and are left out:")
    table = dict(line.strip().split(maxsplit=1) for line in lines[1:6])
    assert {name.strip("'") for name in table} == set(pictures.BROKEN)
    assert table["'circle/empty.png'"] == "the file is empty"
    assert table["'circle/text.jpg'"] == "not an image that Pillow can read"
    assert lines[6].endswith("48 images of 4 classes: 30 train, 4 dev, 4 calibration, 10 test")
    assert loaded.class_names == pictures.CLASSES
    with pytest.raises(InputError, match="5 of 53 images cannot be read, such as 'circle/empty"):
        load(f"folder:{album}", image_size=16, strict=True)


def test_unexpected_pixels_are_said(
    make_files: Make, load: Callable[..., data.Dataset], capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    frames = [PIL.Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (9, 99)]
    frames[0].save(root / "a" / "two.tif", save_all=True, append_images=frames[1:])
    for grey in (200, 201):
        deep = np.full((8, 8), grey, np.uint16)
        PIL.Image.fromarray(deep).save(root / "b" / f"deep{grey}.png")
    for _ in range(2):  # the second time from the cache
        load(f"folder:{root}", image_size=8)
        lines = capfd.readouterr().err.splitlines()
        assert any("'a/two.tif': several frames" in line for line in lines)
        (dark,) = [line for line in lines if "16 bits" in line]
        assert "'b/deep200.png' and 1 more: 16 bits" in dark
        assert dark.endswith("no value above 200")


def test_nothing_is_written_beside_the_pictures(
    make_files: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    before = sorted(root.rglob("*"))
    (tmp_path / "link").symlink_to(root)
    for where in (root, root / "a", root / "new", tmp_path / "link" / "new"):
        with pytest.raises(InputError, match="lies in the folder of your own images"):
            data.load(f"folder:{root}", data_dir=where)
    with pytest.raises(InputError, match="lies in the folder of your own images"):
        csv = pictures.make_csv(root)
        data.load(f"csv:{csv}", data_dir=root)
    csv.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    data.load(f"folder:{root}")
    assert sorted(root.rglob("*")) == before
    assert [path.name for path in (tmp_path / "user_cache").iterdir()] == ["kdjax"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were decoded since the last look."""
    names: list[str] = []
    convert = decoding.convert

    def record(image: Any, listing: Any, number: int, *arguments: Any) -> Any:
        names.append(listing.examples[number].name)
        return convert(image, listing, number, *arguments)

    monkeypatch.setattr(decoding, "convert", record)
    return names


def test_pictures_are_decoded_once_for_their_content(
    make_files: Make, tmp_path: pathlib.Path, decoded: list[str]
) -> None:
    root, cache = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10))), tmp_path
    first = data.load(f"folder:{root}", data_dir=cache / "cache")
    assert len(decoded) == 20
    decoded.clear()
    for path in root.rglob("*.png"):
        os.utime(path)  # touched: read again, but not decoded
    assert_same(data.load(f"folder:{root}", data_dir=cache / "cache"), first)
    assert_same(data.load(f"csv:{pictures.make_csv(root)}", data_dir=cache / "cache"), first)
    moved = root.rename(tmp_path / "moved")
    assert_same(data.load(f"folder:{moved}", data_dir=cache / "cache"), first)
    assert not decoded


def test_changed_picture_of_the_same_size_and_time_is_noticed(
    make_files: Make, tmp_path: pathlib.Path, decoded: list[str]
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    image = PIL.Image.new("RGB", (4, 4), "red")
    image.save(root / "a" / "0.bmp")
    first = data.load(f"folder:{root}", data_dir=tmp_path / "cache")
    arrays = tmp_path / "cache" / "kdjax_arrays" / "own"
    folders = {path.name for path in arrays.iterdir() if path.is_dir()}
    stat = (root / "a" / "0.bmp").stat()
    PIL.Image.new("RGB", (4, 4), "blue").save(root / "a" / "0.bmp")
    os.utime(root / "a" / "0.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (root / "a" / "0.bmp").stat().st_size == stat.st_size
    second = data.load(f"folder:{root}", data_dir=tmp_path / "cache")
    assert second.version != first.version and len(decoded) == 42
    # The arrays of the old contents are removed.
    new = {path.name for path in arrays.iterdir() if path.is_dir()}
    assert len(new) == len(folders) == 1 and new != folders


def test_damaged_index_of_the_cache_is_made_again(
    make_files: Make, tmp_path: pathlib.Path, decoded: list[str]
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    first = data.load(f"folder:{root}", data_dir=tmp_path / "cache")
    (index,) = (tmp_path / "cache" / "kdjax_arrays" / "own").glob("*.json")
    for text in ("", "[]", '{"headers": 1}'):
        index.write_text(text)
        assert_same(data.load(f"folder:{root}", data_dir=tmp_path / "cache"), first)
    assert len(decoded) == 20


def test_unwritable_cache_warns(make_files: Make, tmp_path: pathlib.Path) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    (tmp_path / "cache").touch()
    with pytest.warns(RuntimeWarning, match="cannot cache"):
        assert data.load(f"folder:{root}", data_dir=tmp_path / "cache").num_classes == 2


def test_streaming_notices_a_picture_that_changes_or_vanishes(
    make_files: Make, tmp_path: pathlib.Path
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    loaded = data.load(f"folder:{root}", data_dir=tmp_path / "cache", stream=True)
    assert isinstance(loaded.test.images, np.ndarray)
    for path in root.rglob("*.png"):
        PIL.Image.new("RGB", (4, 4), "red").save(path)
    with pytest.raises(InputError, match=r"'[ab]/\d.png' was changed during the run"):
        np.asarray(loaded.train.images)
    shutil.rmtree(root)
    with pytest.raises(InputError, match="cannot be read any more: No such file"):
        np.asarray(loaded.train.images)


def test_copies_and_contradictions_are_said(
    make_files: Make, cache: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_files(*(f"train/{label}/{i}.png" for label in "ab" for i in range(20)))
    for source, copy in (
        ("train/a/0.png", "train/a/copy.png"),
        ("train/a/1.png", "train/b/contradiction.png"),
        ("train/a/2.png", "test/a/leak.png"),
        ("train/b/3.png", "test/b/leak.png"),
    ):
        (root / copy).parent.mkdir(parents=True, exist_ok=True)
        # The same pixels in another file.
        PIL.Image.open(root / source).save((root / copy).with_suffix(".bmp"))
    loaded = data.load(f"folder:{root}", data_dir=cache)
    lines = [line.partition(f"{root}: ")[2] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "4 exact copies of other images stay in one split; 2 that are also in a later split are "
        "left out",
        "1 images occur with different labels, such as 'train/a/1.png' (a) and "
        "'train/b/contradiction.bmp' (b)",
        "42 images of 2 classes: 32 train, 4 dev, 4 calibration, 2 test",
    ]
    pixels = {name: {i.tobytes() for i in getattr(loaded, name).images} for name in SPLITS}
    assert sum(map(len, pixels.values())) == len(set.union(*pixels.values())) == 40
    # Copies, and only they, are one unit.
    train = [image.tobytes() for image in loaded.train.images]
    assert len(set(train)) == len(set(loaded.train.units.tolist())) < len(train)
    assert len({*zip(train, loaded.train.units.tolist(), strict=True)}) == len(set(train))


def test_groups_of_a_csv_stay_in_one_split(make_files: Make, cache: pathlib.Path) -> None:
    names = [f"{label}/{i}.png" for label in "ab" for i in range(30)]
    root = make_files(*names)
    groups = {name: f"person {i // 3}" for i, name in enumerate(names)}
    loaded = data.load(f"csv:{pictures.make_csv(root, group=groups)}", data_dir=cache)
    person = {
        np.asarray(PIL.Image.open(root / name)).tobytes(): group for name, group in groups.items()
    }
    places: dict[str, set[str]] = {}
    for name in SPLITS:
        for image in getattr(loaded, name).images:
            places.setdefault(person[image.tobytes()], set()).add(name)
    assert len(places) == 20 and all(len(names) == 1 for names in places.values())
    of_units: dict[int, set[str]] = {}
    for image, unit in zip(loaded.train.images, loaded.train.units.tolist(), strict=True):
        of_units.setdefault(unit, set()).add(person[image.tobytes()])
    groups_of_train = {person[image.tobytes()] for image in loaded.train.images}
    assert len(of_units) == len(groups_of_train) and all(map(len, of_units.values()))
    assert set.union(*of_units.values()) == groups_of_train
    limited = data.limit_examples(loaded, 5, 0).train
    assert limited.units is not None and len(limited.units) == len(limited.labels)


def load_with(
    root: pathlib.Path, cache: pathlib.Path, **columns: dict[str, str]
) -> tuple[data.Dataset, dict[bytes, str]]:
    """Loads pictures with columns of a CSV file; also returns the path of each, by its pixels."""
    loaded = data.load(f"csv:{pictures.make_csv(root, **columns)}", data_dir=cache)
    files = root.rglob("*.png")
    paths = {np.asarray(PIL.Image.open(file)).tobytes(): file for file in files}
    return loaded, {key: file.relative_to(root).as_posix() for key, file in paths.items()}


def test_subgroups_of_a_csv_travel_with_the_images_and_do_not_change_the_splits(
    make_files: Make, cache: pathlib.Path
) -> None:
    names = [f"{label}/{i}.png" for label in "ab" for i in range(30)]
    root = make_files(*names)
    without, _ = load_with(root, cache)
    assert without.train.units is None
    device = {name: ["left", "right", ""][i % 3] for i, name in enumerate(names)}
    loaded, paths = load_with(root, cache, subgroup=device)
    for name in SPLITS:
        split, plain = getattr(loaded, name), getattr(without, name)
        assert plain.groups is None and np.array_equal(split.labels, plain.labels)
        expected = [device[paths[image.tobytes()]] for image in split.images]
        assert split.groups.tolist() == expected
    assert loaded.version != without.version
    limited = data.limit_examples(loaded, 5, 0)
    for name in SPLITS:
        split = getattr(limited, name)
        expected = [device[paths[image.tobytes()]] for image in split.images]
        assert len(split.images) <= 5 and split.groups.tolist() == expected


def test_groups_travel_with_the_images_unless_there_are_subgroups(
    make_files: Make, cache: pathlib.Path
) -> None:
    names = [f"{label}/{i}.png" for label in "ab" for i in range(30)]
    root = make_files(*names)
    person = {name: f"person {i // 2}" for i, name in enumerate(names)}
    loaded, paths = load_with(root, cache, group=person)
    for name in SPLITS:
        split = getattr(loaded, name)
        expected = [person[paths[image.tobytes()]] for image in split.images]
        assert split.groups.tolist() == expected
    both, _ = load_with(root, cache, group=person, subgroup=dict.fromkeys(names, "left"))
    assert set(both.test.groups.tolist()) == {"left"}
    assert np.array_equal(both.test.images, loaded.test.images)


def test_grey_pictures_have_one_channel(make_files: Make, cache: pathlib.Path) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    for path in root.rglob("*.png"):
        PIL.Image.open(path).convert("L").save(path)
    # A colour file that cannot be decoded does not count.
    (root / "a" / "broken.jpg").write_bytes(b"")
    assert data.load(f"folder:{root}", data_dir=cache).image_shape == (4, 4, 1)
    PIL.Image.new("RGB", (4, 4)).save(root / "a" / "colour.png")
    assert data.load(f"folder:{root}", data_dir=cache).image_shape == (4, 4, 3)


def shrink(path: pathlib.Path) -> None:
    PIL.Image.open(path).resize((3, 4)).save(path)


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (
            lambda root: shrink(root / "b" / "9.png"),
            {},
            r"several sizes, such as 'a/0.png' \(4x4\) and 'b/9.png' \(3x4\): .*image_size=32",
        ),
        (
            lambda root: [path.write_bytes(b"x") for path in root.rglob("*.png")],
            {},
            "none of the 20 images can be read, such as 'a/0.png': not an image",
        ),
        (
            lambda root: [path.write_bytes(b"") for path in (root / "b").iterdir()],
            {},
            "class 'b' has no image in the train split and 0 in all that can be read",
        ),
        (lambda root: None, {"test_fraction": 0.01}, "the test split would be empty: 20 images"),
        (lambda root: None, {"dev_fraction": 0.01}, "the dev split would be empty"),
        (lambda root: None, {"calibration_fraction": 0.01}, "the calibration split would be empty"),
        (lambda root: None, {"test_fraction": 0.98}, "split would be empty|has no image in the"),
        (lambda root: None, {"image_size": 4_000_000}, "GiB, more than the memory of this machine"),
    ],
)
def test_pictures_that_cannot_be_used_raise_with_one_line(
    damage: Callable[[pathlib.Path], Any],
    options: dict[str, Any],
    message: str,
    make_files: Make,
    cache: pathlib.Path,
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    damage(root)
    with pytest.raises(InputError, match=message) as raised:
        data.load(f"folder:{root}", data_dir=cache, **options)
    assert "\n" not in str(raised.value)


def test_paths_of_a_csv_that_are_no_pictures_are_listed(
    make_files: Make, cache: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_files(*(f"{label}/{i}.png" for label in "ab" for i in range(10)))
    csv = pictures.make_csv(root)
    os.mkfifo(root / "pipe.png")
    with csv.open("a") as file:
        file.write("a,missing.png\na,a\na,pipe.png\n")
    (root / "link.png").symlink_to("nowhere.png")
    data.load(f"csv:{csv}", data_dir=cache)
    lines = [line.split(maxsplit=1) for line in capfd.readouterr().err.splitlines()[1:4]]
    assert lines == [
        ["'missing.png'", "No such file or directory"],
        ["'a'", "not a file"],
        ["'pipe.png'", "not a file"],
    ]


def test_labelled_pictures_for_a_finished_model(
    album: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    location = parse(f"folder:{album}")
    assert location is not None
    labelled = read_labelled(location, (20, 10, 1), "crop")
    assert len(labelled.names) == len(labelled.labels) == len(labelled.images) == 48
    assert "5 of 53 images cannot be read" in capfd.readouterr().err
    assert labelled.labels[20] == labelled.names[20].partition("/")[0]
    assert set(labelled.splits) == {"train"}
    pixels = fitted(album / labelled.names[20], (20, 10, 1), "crop")
    np.testing.assert_array_equal(np.asarray(labelled.images[20:21])[0], pixels)
    with pytest.raises(InputError, match="5 of 53 images cannot be read"):
        read_labelled(location, (20, 10, 1), "crop", strict=True)


def test_other_data_set_of_own_images_is_prepared_and_limited(
    album: pathlib.Path, dataset: data.Dataset, cache: pathlib.Path
) -> None:
    assert data.is_prepared(f"folder:{album}")
    assert not data.is_prepared(f"folder:{album}/nothing")
    assert dataset.name == f"folder:{album.name}"
    few = data.limit_examples(dataset, 8, seed=0)
    assert np.bincount(few.train.labels).tolist() == [2, 2, 2, 2]
