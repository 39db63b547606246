"""Prediction with an exported model, as a function and as a command."""

import csv
import dataclasses
import io
import json
import os

import jax
import jax.export
import numpy as np
import PIL.features
import PIL.Image
import pytest
from support.colours import CLASSES, SHAPE, function, write
from support.commands import assert_refused, command, python

from kdjax.data.fit import fit
from kdjax.data.image_files import image_suffixes
from kdjax.errors import InputError
from kdjax.export import formats
from kdjax.predict import images as image_files
from kdjax.predict import load


@pytest.fixture(scope="module")
def content():
    return formats.to_stablehlo(function(0.5), SHAPE)


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / "colours", content)


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, batch_size=4)


def images_of(n):
    return np.random.default_rng(n).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def error_message(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# The function


@pytest.mark.parametrize("orientation", range(1, 9))
def test_uncompressed_tiff_has_the_pixels_of_training(model, tmp_path, orientation):
    path, exif = tmp_path / "picture.tif", PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(images_of(1)[0]).save(path, exif=exif)
    with PIL.Image.open(io.BytesIO(path.read_bytes())) as image:
        expected = fit(image, model.image_shape)[0]
    (loaded,) = image_files.read_images([str(path)], model.image_shape, pytest.fail)
    np.testing.assert_array_equal(loaded.pixels, expected)
    np.testing.assert_array_equal(model(path).logits, model(expected[None]).logits)


def test_pipe_is_refused_and_not_waited_for(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    errors = []
    assert not [*image_files.read_images([tmp_path / "pipe.png"], model.image_shape, errors.append)]
    assert errors == [f"{tmp_path / 'pipe.png'}: not a file"]


def test_log_odds_are_shown_as_a_probability_and_kept_as_the_score(model):
    images = images_of(4)
    plain = model(images)
    assert plain.score.tolist() == plain.confidence.tolist()
    score = {"name": "softmax_response_log_odds", "scale": "log_odds"}
    prediction = model._replace(card={**model.card, "score": score})(images)
    assert prediction.score.tolist() == plain.score.tolist()
    expected = 1 / (1 + np.exp(-plain.score.astype(np.float64)))
    np.testing.assert_allclose(prediction.confidence, expected, rtol=1e-6)
    assert prediction.accepted.tolist() == plain.accepted.tolist()


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
def test_prediction_is_independent_of_the_batch_size(model, n):
    prediction, colours = model(images_of(n)), images_of(n).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(prediction.logits, np.pad(colours, [(0, 0), (0, 1)]), atol=1e-6)
    np.testing.assert_allclose(prediction.confidence, colours.max(axis=1), atol=1e-6)
    assert prediction.classes.tolist() == colours.argmax(axis=1).tolist()
    assert prediction.labels.tolist() == [CLASSES[i] for i in colours.argmax(axis=1)]
    assert prediction.accepted.tolist() == (colours.max(axis=1) > 0.5).tolist()
    powers = np.exp(colours)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "part"),
    [
        (images_of(2) / 255, "dtype float64"),
        (images_of(2).astype(np.float32), "dtype float32"),
        (images_of(2).astype(int), "dtype int64"),
        (images_of(2)[0], "shape (4, 5, 3)"),
        (images_of(2)[..., 0], "shape (2, 4, 5)"),
        (images_of(2)[:, :3], "shape (2, 3, 5, 3)"),
        (images_of(0), "shape (0, 4, 5, 3)"),
        ([], "no image: "),
        (None, "dtype object"),
        (5, "dtype int64"),
        ([images_of(1)[0], images_of(1)[0, :3]], "different shapes"),
        ([PIL.Image.new("L", (3, 3)), images_of(1)[0, :3]], "shape (1, 3, 5, 3)"),
    ],
)
def test_images_of_wrong_dtype_or_shape_raise_with_what_is_needed(model, images, part):
    line = error_message(model, images)
    assert part in line and "this model needs uint8 [n, 4, 5, 3]" in line


def test_paths_and_pillow_images_are_converted_as_by_the_command(model, album):
    files = [album / "b.png", str(album / "more" / "a.JPG"), album / "a.tiff"]
    images = [image.pixels for image in read(*files)[0]]
    expected = model(np.stack(images))
    opened = [PIL.Image.open(file) for file in files]
    for given in (files, tuple(opened), [files[0], opened[1], images[2]], iter(files)):
        prediction = model(given)
        np.testing.assert_array_equal(prediction.logits, expected.logits)
        assert prediction.labels.tolist() == expected.labels.tolist()
    for given in (files[0], str(files[0]), opened[0]):
        np.testing.assert_array_equal(model(given).logits, expected.logits[:1])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("c.png", "not an image that Pillow can read"),
        ("empty.webp", "the file is empty"),
        ("nowhere.png", "No such file or directory"),
        ("more", "not a file"),
    ],
)
def test_unreadable_path_raises_with_its_name(model, album, name, part):
    line = error_message(model, [album / "b.png", album / name])
    assert line.startswith(f"{album / name}: ") and part in line


def test_damaged_pillow_image_raises_as_its_file_does(model, tmp_path):
    path, content = tmp_path / "damaged.png", io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(content, "PNG")
    damaged = bytearray(content.getvalue())
    damaged[damaged.find(b"IDAT") + 200] ^= 0xFF
    path.write_bytes(damaged)
    expected = error_message(model, path)
    with PIL.Image.open(path) as image:
        assert error_message(model, image) == expected
    with PIL.Image.open(io.BytesIO(damaged)) as image:
        assert error_message(model, image) == expected.replace(str(path), "Pillow image")


def test_path_may_begin_with_the_home_folder(model, album, monkeypatch):
    monkeypatch.setenv("HOME", str(album))
    np.testing.assert_array_equal(model("~/b.png").logits, model(album / "b.png").logits)


def test_card_with_another_shape_than_the_file_raises(content, tmp_path):
    folder = write(tmp_path / "model", content, input={"shape": [8, 8, 3]})
    assert "'input' has the shape [8, 8, 3], but model.stablehlo takes images of [4, 5, 3]" in (
        error_message(load, folder)
    )


def test_images_are_resized_as_the_card_says(content, tmp_path):
    shape = {"shape": list(SHAPE)}
    wide = PIL.Image.new("RGB", (10, 4), "red")

    def confidence(resize):
        folder = write(tmp_path / resize, content, input={**shape, "fit": resize})
        return float(load(folder)(wide).confidence[0])

    assert [confidence(resize) for resize in ("pad", "crop", "stretch")] == [0.5, 1.0, 1.0]


def test_model_without_a_threshold_is_loaded_with_a_warning(content, tmp_path):
    with pytest.warns(UserWarning, match="abstains on every image"):
        load(write(tmp_path / "model", content, threshold=None))


def test_path_may_be_a_string(folder):
    assert load(str(folder))(images_of(1)).logits.shape == (1, 4)


def test_unloadable_file_raises_with_both_jax_versions(content, tmp_path):
    exported = jax.export.deserialize(bytearray(content))
    later = dataclasses.replace(exported, mlir_module_serialized=b"ML\xefR of a later version")
    line = error_message(load, write(tmp_path / "model", bytes(later.serialize()), jax="99.1.0"))
    assert "written by jax 99.1.0" in line and f"installed jax {jax.__version__} " in line


def test_damaged_or_missing_file_raises(content, tmp_path):
    folder = write(tmp_path / "model", content)
    (folder / formats.STABLEHLO).write_bytes(content[: len(content) // 2])
    assert "is damaged" in error_message(load, folder)
    (folder / formats.STABLEHLO).unlink()
    assert "cannot be read" in error_message(load, folder)


def test_batches_are_padded_to_a_power_of_two_or_the_batch_size(model):
    sizes = []

    def run(images):
        sizes.append(len(images))
        return model.run(images)

    limited = model._replace(run=run, batch_size=6)
    for n in (1, 3, 5, 6, 7):
        assert len(limited(images_of(n)).labels) == n
    assert sizes == [1, 4, 6, 6, 6, 1]


def test_batch_size_below_one_raises(folder):
    assert "batch_size 0: must be at least 1" in error_message(load, folder, batch_size=0)


@pytest.mark.slow
def test_prediction_imports_no_training_library():
    code = (
        "import sys; import kdjax.predict.images;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = set(python("-c", code).stdout.split())
    assert {"jax", "PIL"} <= loaded
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "ml_collections", "sklearn", "absl"}
    assert not loaded & heavy


# Reading images


@pytest.fixture
def album(tmp_path):
    """A folder with valid images of several sizes and modes, damaged images and other files."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    PIL.Image.new("RGB", (5, 4), "red").save(folder / "b.png")
    PIL.Image.new("L", (640, 480), 255).save(folder / "more" / "a.JPG", "jpeg")
    PIL.Image.new("RGBA", (7, 3), (0, 0, 255, 255)).save(folder / "a.tiff")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty.webp").touch()
    return folder


def read(*names):
    """Returns the images that are read, and the error messages."""
    lines = []
    return list(image_files.read_images(map(str, names), SHAPE, lines.append)), lines


def test_folder_is_read_in_sorted_order_and_damaged_images_are_reported(album):
    images, lines = read(album)
    assert [image.path for image in images] == [
        str(album / name) for name in ("a.tiff", "b.png", "more/a.JPG")
    ]
    assert [line.split(": ")[0] for line in lines] == [
        str(album / name) for name in ("c.png", "empty.webp")
    ]
    assert all(image.pixels.shape == SHAPE and image.pixels.dtype == np.uint8 for image in images)
    assert images[1].note == ""
    assert "resized from 640x480" in images[2].note and "converted from L" in images[2].note
    assert (images[1].pixels == [255, 0, 0]).all() and (images[2].pixels == 255).all()


# Suffix -> format, for the formats that Pillow writes too.
FORMATS = {
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".JPEG": "JPEG",
    ".ico": "ICO",
    ".tga": "TGA",
    ".jp2": "JPEG2000",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pcx": "PCX",
    **({".avif": "AVIF"} if PIL.features.check("avif") else {}),
}


def test_folder_gives_every_format_that_pillow_decodes(tmp_path):
    for suffix, form in FORMATS.items():
        PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / f"a{suffix}", form)
    images, lines = read(tmp_path)
    assert lines == []
    assert [image.path for image in images] == [str(tmp_path / f"a{s}") for s in sorted(FORMATS)]
    for image in images:
        np.testing.assert_allclose(image.pixels, np.full(SHAPE, [255, 0, 0]), atol=8)


def test_suffixes_are_those_of_decodable_formats():
    suffixes = image_suffixes()
    assert {".png", ".jpg", ".jfif", ".avif", ".ico", ".tga", ".jp2", ".gif", ".bmp"} <= suffixes
    assert not {".pdf", ".h5", ".grib", ".bufr", ".wmf", ".mpg", ".npz", ".txt", ""} & suffixes


def test_other_files_and_subfolders_named_like_images_are_skipped_and_counted(album):
    (album / "x.png").mkdir()
    (album / "x.png" / "table.csv").touch()
    (album / "more" / "notes2.txt").touch()
    (album / "README").touch()
    os.mkfifo(album / "pipe.png")  # reading it would wait forever
    lines, skipped = [], []
    images = image_files.read_images([str(album)], SHAPE, lines.append, skipped.append)
    assert len(list(images)) == 3 and len(lines) == 2
    (line,) = skipped
    assert line.startswith(f"{album}: skipped 5 files (") and line.endswith("), not images")
    assert ".txt 2" in line and ".csv 1" in line and "no suffix 1" in line


def test_folder_without_images_is_an_error_with_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "x.png").mkdir()
    images, lines = read(tmp_path)
    assert images == []
    assert lines == [f"{tmp_path}: no image file in this folder (1 file (.txt 1))"]


def test_broken_link_and_too_long_name_are_reported_and_reading_continues(album):
    (album / "z.png").symlink_to("nowhere")
    images, lines = read("x" * 5000, album)
    assert len(images) == 3
    assert "File name too long" in lines[0]
    assert lines[-1] == f"{album / 'z.png'}: no such file or folder"


def test_images_are_read_one_at_a_time(album):
    lines = []
    first = next(
        image_files.read_images([str(album / "b.png"), "nowhere.png"], SHAPE, lines.append)
    )
    assert first.path == str(album / "b.png") and lines == []


def test_images_of_an_array_have_their_positions(tmp_path):
    np.savez(tmp_path / "three.npz", images=images_of(3))
    images, lines = read(tmp_path / "three.npz")
    assert lines == [] and [image.position for image in images] == [0, 1, 2]
    np.testing.assert_array_equal([image.pixels for image in images], images_of(3))


def test_array_of_one_channel_may_omit_the_channel_axis(tmp_path):
    np.savez(tmp_path / "grey.npz", images=images_of(2)[..., 0])
    (first, _) = image_files.read_images([str(tmp_path / "grey.npz")], (4, 5, 1), pytest.fail)
    np.testing.assert_array_equal(first.pixels, images_of(2)[0, ..., :1])


def write_npz(path, **arrays):
    np.savez(path, **arrays)


def write_truncated(path):
    write_npz(path, images=images_of(5))
    path.write_bytes(path.read_bytes()[:150])


def write_flipped_byte(path):
    write_npz(path, images=images_of(5))
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: write_npz(path, pixels=images_of(1)), "no array 'images': it has pixels"),
        (lambda path: write_npz(path), "no array 'images': it has no arrays"),
        (lambda path: write_npz(path, images=images_of(0)), "shape (0, 4, 5, 3)"),
        (lambda path: write_npz(path, images=images_of(1) / 255), "dtype float64"),
        (
            lambda path: write_npz(path, images=np.zeros((1, 8, 8, 3), np.uint8)),
            "shape (1, 8, 8, 3)",
        ),
        (lambda path: write_npz(path, images=np.array([None])), "Object arrays cannot be loaded"),
        (write_truncated, "damaged, or not an npz file"),
        (write_flipped_byte, "Bad CRC-32"),
        (lambda path: path.write_text("images"), "damaged, or not an npz file"),
        (lambda path: path.mkdir(), "no image file in this folder"),
        (lambda path: None, "no such file or folder"),
    ],
)
def test_unreadable_file_is_reported_in_one_line_and_reading_continues(make, part, album):
    make(album / "x.npz")
    images, (line,) = read(album / "x.npz", album / "b.png")
    assert line.startswith(f"{album / 'x.npz'}: ") and part in line and "\n" not in line
    assert [image.path for image in images] == [str(album / "b.png")]


# The command


def test_command_prints_labels_and_abstentions_and_reports_damaged_images(folder, album):
    np.savez(album / "dark.npz", images=np.full((1, *SHAPE), 100, np.uint8))
    done = command("predict", f"--model={folder}", album, album / "dark.npz", "--batch_size=2")
    assert done.stdout.splitlines() == [
        f"blue     1.0000  {album}/a.tiff  (resized from 7x3, proportions changed, "
        "converted from RGBA)",
        f"red      1.0000  {album}/b.png",
        f"red      1.0000  {album}/more/a.JPG  (resized from 640x480, proportions changed, "
        "converted from L)",
        f"abstain  0.3922  {album}/dark.npz[0]",
    ]
    skipped, *errors, summary = done.stderr.splitlines()
    assert skipped.startswith(f"kdjax: note: {album}: skipped 2 files (")
    counts = "4 images: 3 accepted (75.0 %), 1 abstained; 2 could not be read"
    assert summary == f"kdjax: note: {counts}"
    assert [line.split(": ")[:3] for line in errors] == [
        ["kdjax", "error", f"{album}/{name}"] for name in ("c.png", "empty.webp")
    ]
    assert done.returncode == 1


NAMES = (
    b"bad\xff.png",
    "caf\u00e9.png".encode(),
    b"new\nline.png",
    b"tab\tand\x1b[31m.png",
    b"z.png",
)


@pytest.fixture
def odd_names(tmp_path):
    """A folder with images whose names are hard to print."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in NAMES:
        PIL.Image.new("RGB", (5, 4), "red").save(os.fsencode(folder) + b"/" + name, "PNG")
    return folder


ENVIRONMENTS = [
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_file_names_that_cannot_be_printed_are_escaped(folder, odd_names, environment):
    arguments = ("-m", "kdjax.predict", f"--model={folder}", odd_names)
    check_odd_names(python(*arguments, **environment))


def test_file_names_are_escaped_in_an_environment_of_utf_8(folder, odd_names):
    check_odd_names(command("predict", f"--model={folder}", odd_names))


def check_odd_names(done):
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    lines = done.stdout.splitlines()
    assert len(lines) == len(NAMES) and all(line.startswith("red ") for line in lines)
    for name in ("bad\\udcff.png", "new\\nline.png", "tab\\tand\\x1b[31m.png", "z.png"):
        assert any(line.endswith(name) for line in lines), lines


@pytest.mark.slow
def test_file_names_that_cannot_be_printed_are_escaped_in_json(folder, odd_names):
    arguments = ("-m", "kdjax.predict", f"--model={folder}", odd_names, "--json")
    output = python(*arguments, **ENVIRONMENTS[1]).stdout
    rows = [json.loads(line) for line in output.splitlines()]
    assert {os.fsencode(row["path"]).split(b"/")[-1] for row in rows} == set(NAMES)
    assert [row["label"] for row in rows] == ["red"] * len(NAMES)


def probabilities(*colours):
    powers = np.exp(np.array(colours, float))
    return dict(zip(CLASSES, map(pytest.approx, powers / powers.sum()), strict=True))


def test_json_is_one_object_per_line_with_label_and_probabilities_on_abstention(folder, album):
    np.savez(album / "dark.npz", images=np.full((1, *SHAPE), 100, np.uint8))
    done = command("predict", "--json", f"--model={folder}", album / "b.png", album / "dark.npz")
    summary = "kdjax: note: 2 images: 1 accepted (50.0 %), 1 abstained\n"
    assert (done.returncode, done.stderr) == (0, summary)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "path": f"{album}/b.png",
            "label": "red",
            "accepted": True,
            "abstain": False,
            "confidence": 1.0,
            "score": 1.0,
            "probabilities": probabilities(1, 0, 0),
            "note": "",
        },
        {
            "path": f"{album}/dark.npz",
            "index": 0,
            "label": "red",
            "accepted": False,
            "abstain": True,
            "confidence": pytest.approx(100 / 255),
            "score": pytest.approx(100 / 255),
            "probabilities": probabilities(0, 0, 0),
            "note": "",
        },
    ]


def test_csv_has_a_header_and_a_row_for_each_image(folder, album):
    named = album / 'a, "b".png'
    (album / "b.png").rename(named)
    np.savez(album / "dark.npz", images=np.full((1, *SHAPE), 100, np.uint8))
    done = command("predict", "--csv", f"--model={folder}", named, album / "dark.npz")
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert (first["path"], first["index"], first["label"]) == (str(named), "", "red")
    assert (first["accepted"], second["accepted"], second["label"]) == ("true", "false", "red")
    assert (second["path"], second["index"]) == (f"{album}/dark.npz", "0")
    assert float(second["confidence"]) == pytest.approx(100 / 255)
    for row, colours in ((first, (1, 0, 0)), (second, (0, 0, 0))):
        given = {name: float(row[f"p:{name}"]) for name in CLASSES}
        assert given == probabilities(*colours)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "no model given: for example --model=model/"),
        (["--model=nowhere"], "no model in 'nowhere'"),
        (["--model={folder}", "--batch_size=0"], "batch_size 0: must be at least 1"),
        (["--model={folder}", "--json", "--csv"], "--json and --csv exclude each other"),
    ],
)
def test_invalid_input_is_a_one_line_error(folder, flags, part):
    done = command("predict", *(flag.format(folder=folder) for flag in flags), "a.png")
    assert_refused(done, part)
