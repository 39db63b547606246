"""A model that was taken away, as a function and as a command."""

import dataclasses
import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from commands import assert_refused, command, python

from kdjax import card, formats
from kdjax.errors import InputError
from kdjax.predict import load, pictures

CLASSES = ["red", "green", "blue"]
SHAPE = (4, 5, 3)


def function(threshold):
    """The colour that is brightest, and how bright it is; more than the threshold is accepted."""

    def decide(images):
        colours = jnp.mean(images.astype(jnp.float32), axis=(1, 2)) / 255
        logits = jnp.pad(colours, [(0, 0), (0, 1)])
        confidence = jnp.max(colours, axis=-1)
        return logits, jnp.argmax(colours, -1).astype(jnp.int32), confidence, confidence > threshold

    return decide


def write(folder, content, **changes):
    """A model's folder around the content of its StableHLO file."""
    folder.mkdir()
    (folder / formats.STABLEHLO).write_bytes(content)
    about = {
        **dict.fromkeys(card.FIELDS),
        "format": card.FORMAT,
        "jax": jax.__version__,
        "classes": CLASSES,
        "input": {"shape": list(SHAPE)},
        "threshold": 0.5,
        "files": {formats.STABLEHLO: {"sha256": card.sha256(content)}},
        **changes,
    }
    (folder / card.NAME).write_text(json.dumps(about))
    return folder


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


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# The function


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
def test_a_prediction_is_what_the_model_gives_in_batches_of_any_size(model, n):
    found, colours = model(images_of(n)), images_of(n).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(found.logits, np.pad(colours, [(0, 0), (0, 1)]), atol=1e-6)
    np.testing.assert_allclose(found.confidence, colours.max(axis=1), atol=1e-6)
    assert found.classes.tolist() == colours.argmax(axis=1).tolist()
    assert found.labels.tolist() == [CLASSES[i] for i in colours.argmax(axis=1)]
    assert found.accepted.tolist() == (colours.max(axis=1) > 0.5).tolist()


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
        ([], "dtype float64"),
    ],
)
def test_other_images_are_refused_with_what_is_needed(model, images, part):
    line = refusal(model, images)
    assert part in line and "this model needs uint8 [n, 4, 5, 3]" in line


def test_a_model_without_a_threshold_is_loaded_with_a_warning(content, tmp_path):
    with pytest.warns(UserWarning, match="abstains on everything"):
        load(write(tmp_path / "model", content, threshold=None))


def test_a_path_may_be_a_string(folder):
    assert load(str(folder))(images_of(1)).logits.shape == (1, 4)


def test_a_file_of_another_jax_is_told_with_both_versions(content, tmp_path):
    exported = jax.export.deserialize(bytearray(content))
    later = dataclasses.replace(exported, mlir_module_serialized=b"ML\xefR of a later version")
    line = refusal(load, write(tmp_path / "model", bytes(later.serialize()), jax="99.1.0"))
    assert "written by jax 99.1.0" in line and f"jax {jax.__version__} here" in line


def test_a_damaged_model_is_refused(content, tmp_path):
    folder = write(tmp_path / "model", content)
    (folder / formats.STABLEHLO).write_bytes(content[: len(content) // 2])
    assert "is damaged" in refusal(load, folder)
    (folder / formats.STABLEHLO).unlink()
    assert "cannot be read" in refusal(load, folder)


def test_a_batch_holds_an_image_at_least(folder):
    assert "batch_size 0: must be at least 1" in refusal(load, folder, batch_size=0)


def test_prediction_needs_no_training_library():
    code = (
        "import sys; import kdjax.predict.pictures;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = set(python("-c", code).stdout.split())
    assert {"jax", "PIL"} <= loaded
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "ml_collections", "sklearn", "absl"}
    assert not loaded & heavy


# What a user names


@pytest.fixture
def album(tmp_path):
    """Good pictures of other sizes and modes, and what is none."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    PIL.Image.new("RGB", (5, 4), "red").save(folder / "b.png")
    PIL.Image.new("L", (640, 480), 255).save(folder / "more" / "a.JPG", "jpeg")
    PIL.Image.new("RGBA", (7, 3), (0, 0, 255, 255)).save(folder / "a.tiff")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.webp").touch()
    return folder


def read(*names):
    """What is read, and what is reported."""
    lines = []
    return list(pictures.read(map(str, names), SHAPE, lines.append)), lines


def test_a_folder_is_read_in_the_order_of_its_paths_and_damage_is_told(album):
    found, lines = read(album)
    assert [one.path for one in found] == [
        str(album / name) for name in ("a.tiff", "b.png", "more/a.JPG")
    ]
    assert [line.split(": ")[0] for line in lines] == [
        str(album / name) for name in ("c.png", "empty.webp")
    ]
    assert all(one.image.shape == SHAPE and one.image.dtype == np.uint8 for one in found)
    assert [one.note for one in found][1] == ""
    assert "resized from 640x480" in found[2].note and "converted from L" in found[2].note
    assert (found[1].image == [255, 0, 0]).all() and (found[2].image == 255).all()


def test_pictures_are_read_one_at_a_time(album):
    lines = []
    first = next(pictures.read([str(album / "b.png"), "nowhere.png"], SHAPE, lines.append))
    assert first.path == str(album / "b.png") and lines == []


def test_the_images_of_an_array_keep_their_places(tmp_path):
    np.savez(tmp_path / "three.npz", images=images_of(3))
    found, lines = read(tmp_path / "three.npz")
    assert lines == [] and [one.place for one in found] == [0, 1, 2]
    np.testing.assert_array_equal([one.image for one in found], images_of(3))


def test_one_channel_needs_no_axis(tmp_path):
    np.savez(tmp_path / "grey.npz", images=images_of(2)[..., 0])
    (first, _) = pictures.read([str(tmp_path / "grey.npz")], (4, 5, 1), pytest.fail)
    np.testing.assert_array_equal(first.image, images_of(2)[0, ..., :1])


def npz(path, **arrays):
    np.savez(path, **arrays)


def cut(path):
    npz(path, images=images_of(5))
    path.write_bytes(path.read_bytes()[:150])


def flipped(path):
    npz(path, images=images_of(5))
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: npz(path, pixels=images_of(1)), "no array 'images' in it, only pixels"),
        (lambda path: npz(path), "no array 'images' in it, only nothing"),
        (lambda path: npz(path, images=images_of(0)), "shape (0, 4, 5, 3)"),
        (lambda path: npz(path, images=images_of(1) / 255), "dtype float64"),
        (lambda path: npz(path, images=np.zeros((1, 8, 8, 3), np.uint8)), "shape (1, 8, 8, 3)"),
        (lambda path: npz(path, images=np.array([None])), "Object arrays cannot be loaded"),
        (cut, "damaged, or not an npz file"),
        (flipped, "Bad CRC-32"),
        (lambda path: path.write_text("images"), "damaged, or not an npz file"),
        (lambda path: path.mkdir(), "no image file in this folder"),
        (lambda path: None, "there is no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line_and_the_others_go_through(make, part, album):
    make(album / "x.npz")
    found, (line,) = read(album / "x.npz", album / "b.png")
    assert line.startswith(f"{album / 'x.npz'}: ") and part in line and "\n" not in line
    assert [one.path for one in found] == [str(album / "b.png")]


# The command


def test_the_command_labels_or_abstains_and_tells_what_is_broken(folder, album):
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
    assert [line.split(": ")[:3] for line in done.stderr.splitlines()] == [
        ["kdjax", "error", f"{album}/{name}"] for name in ("c.png", "empty.webp")
    ]
    assert done.returncode == 1


def test_json_is_an_object_a_line(folder, album):
    np.savez(album / "dark.npz", images=np.full((1, *SHAPE), 100, np.uint8))
    done = command("predict", "--json", f"--model={folder}", album / "b.png", album / "dark.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "path": f"{album}/b.png",
            "label": "red",
            "abstain": False,
            "confidence": 1.0,
            "note": "",
        },
        {
            "path": f"{album}/dark.npz",
            "index": 0,
            "label": None,
            "abstain": True,
            "confidence": pytest.approx(100 / 255),
            "note": "",
        },
    ]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "no model given: for example --model=model/"),
        (["--model=nowhere"], "'nowhere' holds no model"),
        (["--model={folder}", "--batch_size=0"], "batch_size 0: must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_line(folder, flags, part):
    done = command("predict", *(flag.format(folder=folder) for flag in flags), "a.png")
    assert_refused(done, part)
