"""The browser demo in headless Chromium: pixels as of kdjax, decisions as of the model."""

import base64
import io
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import PIL.Image
import pytest
from support.browser import TEXT_CONTRASTS, chromium, needs_chromium
from support.commands import ROOT

from kdjax import models, selective
from kdjax.data.fit import RESIZES, fit
from kdjax.export import formats
from kdjax.export.web import page, runtime

pytestmark = [pytest.mark.slow, needs_chromium]
CLASSES = ["<b>red</b>", "green", "blue"]
SHAPE = (4, 5, 3)
THRESHOLD = 0.5
NARROW, WIDE = 360, 1280

# Stands in for onnxruntime-web: the brightest colour, with its brightness as confidence. The
# "model" is the threshold as text.
STUB = """
globalThis.ort = {
  env: {wasm: {}},
  Tensor: class { constructor(type, data, dims) { Object.assign(this, {type, data, dims}); } },
  InferenceSession: {create: async model => {
    const threshold = Number(new TextDecoder().decode(model));
    if (!ort.env.wasm.wasmBinary.byteLength || !ort.env.wasm.wasmPaths.mjs) throw Error("no wasm");
    if (Number.isNaN(threshold)) throw Error("not a model");
    return {run: async ({images}) => {
      const sums = [0, 0, 0], count = images.data.length / 3;
      images.data.forEach((value, index) => { sums[index % 3] += value / count / 255; });
      const confidence = Math.max(...sums);
      return {
        logits: {data: Float32Array.from([...sums, 0])},
        label: {data: Int32Array.of(sums.indexOf(confidence))},
        confidence: {data: Float32Array.of(confidence)},
        accepted: {data: Uint8Array.of(confidence >= threshold ? 1 : 0)},
      };
    }};
  }},
};
"""


def card_of(**changes):
    return {
        "name": "colours </title>",
        "kdjax": "0.1.0",
        "classes": CLASSES,
        "data": {"name": "pictures", "version": "1.0.0"},
        "input": {"shape": list(SHAPE), "fit": "pad"},
        "score": {"name": "margin", "pnorm": 2.0},
        "threshold": THRESHOLD,
        "certificate": {"risk": 0.02, "delta": 0.05, "examples": 500},
        **changes,
    }


def write(folder, model=b"0.5", files=None, **changes):
    """Writes a page; returns its path."""
    files = files or runtime.Runtime("0.0.0", STUB.encode(), b"glue", b"wasm")
    path = folder / page.FILE_NAME
    path.write_text(page.render(card_of(**changes), model, files), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def tabs(browser):
    """The tabs that pages are loaded into, by `bypass_csp`, and what happens in them."""
    events, opened = [], {}
    for bypass_csp in (False, True):
        tab = opened[bypass_csp] = browser.new_page(bypass_csp=bypass_csp)
        tab.on("console", lambda message: events.append(message.text))
        tab.on("pageerror", lambda error: events.append(str(error)))
        tab.on("request", lambda request: events.append(request.url))
    return opened, events


@pytest.fixture
def visit(tabs):
    """Opens a page; a console message, an error or a request to elsewhere fails the test."""
    opened, events = tabs
    events.clear()

    def go(path, *, width=WIDE, scheme="light", bypass_csp=False, state="ready"):
        tab = opened[bypass_csp]
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 800})
        tab.goto(path.as_uri())
        tab.wait_for_selector(f"body[data-state={state}]")
        events.remove(path.as_uri())
        return tab

    yield go
    assert [event for event in events if not event.startswith("blob:")] == []


def save(path, picture):
    picture.save(path, "PNG")
    return path


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def drop(tab, *files):
    """Drops files, given as (name, content); returns the answers, the last file's first."""
    encoded = [[name, base64.b64encode(content).decode()] for name, content in files]
    tab.evaluate(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
          }
          document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        }""",
        encoded,
    )
    return answers(tab)


def answers(tab):
    tab.wait_for_selector("body[data-state=ready]")
    return [
        json.loads(item.get_attribute("data-result")) for item in tab.locator("#results li").all()
    ]


# Pixels


def picture_of(mode, size, seed=0):
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


SIZES = [(5, 4), (10, 8), (64, 48), (13, 31), (3, 2), (2, 90), (7, 3), (1, 1), (50, 41)]
FIT_ALL = """cases => cases.map(([text, width, height, shape, mode]) => {
  const rgba = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const fitted = kdjaxPicture.fit({rgba, width, height}, shape, mode);
  return [Array.from(fitted.image.pixels), fitted.notes];
})"""


def test_pixels_are_those_of_kdjax_to_the_bit(visit, demo):
    """From the same RGBA bytes; 8 x 9 grey and 7 x 6 coloured pixels, every way to resize."""
    pictures = [picture_of(mode, size) for mode in ("L", "RGB", "RGBA") for size in SIZES]
    shapes = ((8, 9, 1), (7, 6, 3))
    cases = [
        (picture, shape, resize) for picture in pictures for shape in shapes for resize in RESIZES
    ]
    given = [
        [base64.b64encode(picture.convert("RGBA").tobytes()).decode(), *picture.size, *options]
        for picture, *options in cases
    ]
    # Pillow 13 has changed the order of the two passes of resizing, which the page follows.
    tolerance = 0 if int(PIL.__version__.partition(".")[0]) >= 13 else 1
    for case, result in zip(
        cases, visit(demo, bypass_csp=True).evaluate(FIT_ALL, given), strict=True
    ):
        expected, note = fit(*case)
        pixels = np.array(result[0]).reshape(expected.shape)
        assert np.abs(pixels - expected.astype(int)).max() <= tolerance, case
        assert result[1] == [part for part in note.split(", ") if part and "converted" not in part]


DECODE = """async text => {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const {rgba, width, height} = await kdjaxDemo.decode(new Blob([bytes]));
  return [width, height, Array.from(rgba)];
}"""


def decoded(tab, content):
    width, height, values = tab.evaluate(DECODE, base64.b64encode(content).decode())
    return np.array(values).reshape(height, width, 4)


def test_png_is_decoded_to_the_bit_and_turned_upright(visit, demo):
    tab = visit(demo, bypass_csp=True)
    for mode in ("L", "RGB"):
        picture = picture_of(mode, (21, 13))
        expected = np.asarray(picture.convert("RGBA"))
        np.testing.assert_array_equal(decoded(tab, png(picture)), expected)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    turned = np.asarray(picture.transpose(PIL.Image.Transpose.ROTATE_270).convert("RGBA"))
    np.testing.assert_array_equal(decoded(tab, file.getvalue()), turned)


def test_jpeg_and_transparent_pictures_differ_by_a_few_levels_at_most(visit, demo):
    tab = visit(demo, bypass_csp=True)
    smooth = PIL.Image.fromarray(np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8))
    file = io.BytesIO()
    smooth.convert("RGB").save(file, "JPEG", quality=90)
    expected = np.asarray(PIL.Image.open(file).convert("RGBA")).astype(int)
    assert np.abs(decoded(tab, file.getvalue()) - expected).max() <= 4
    picture = picture_of("RGBA", (21, 13))
    values = decoded(tab, png(picture))
    on_black = values[..., :3] * values[..., 3:] / 255
    pixels = np.asarray(picture).astype(float)
    assert np.abs(on_black - pixels[..., :3] * pixels[..., 3:] / 255).max() <= 2


# Answers


def test_dropped_pictures_get_label_confidence_and_decision(visit, demo):
    tab = visit(demo)
    bright = PIL.Image.new("RGB", (50, 40), (20, 204, 0))
    dark = PIL.Image.new("RGB", (5, 4), (0, 0, 51))
    files = [("bright.png", png(bright)), ("dark.png", png(dark)), ("notes.txt", b"no picture")]
    broken, abstained, accepted = drop(tab, *files)
    assert broken["name"] == "notes.txt" and "error" in broken
    assert (accepted["name"], accepted["label"], accepted["accepted"]) == ("bright.png", 1, True)
    assert accepted["confidence"] == pytest.approx(0.8)
    assert (abstained["label"], abstained["accepted"]) == (2, False)
    powers = np.exp([20 / 255, 0.8, 0])
    assert accepted["probabilities"] == pytest.approx((powers / powers.sum()).tolist())
    texts = tab.locator("#results li").all_inner_texts()
    assert "notes.txt: not an image that this browser can decode" in texts[0]
    assert "abstains (it would say blue)" in texts[1] and "below the threshold 0.5" in texts[1]
    assert "green\n" in texts[2] and "at least the threshold 0.5" in texts[2]
    assert "resized from 50x40" in texts[2]
    assert tab.inner_text("#status") == "3 images"


def test_chosen_and_pasted_pictures_are_answered(visit, demo, tmp_path):
    tab = visit(demo)
    path = save(tmp_path / "red.png", PIL.Image.new("RGB", (5, 4), "red"))
    tab.set_input_files("#files", [path])
    (chosen,) = answers(tab)
    assert (chosen["name"], chosen["label"], chosen["confidence"]) == ("red.png", 0, 1)
    assert tab.locator("#results h3").inner_text() == "<b>red</b>"
    tab.evaluate(
        """text => {
          const clipboardData = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
          clipboardData.items.add(new File([bytes], "image.png"));
          document.dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
        }""",
        base64.b64encode(path.read_bytes()).decode(),
    )
    assert [answer["label"] for answer in answers(tab)] == [0, 0]


def test_card_is_shown_as_text(visit, demo):
    tab = visit(demo)
    assert tab.title() == tab.inner_text("h1") == "colours </title>"
    text = tab.inner_text("main")
    assert "at most 2 % are wrong" in text and "kdjax 0.1.0, onnxruntime-web 0.0.0." in text
    assert "fitted to 5 x 4 pixels" in text and "images stay on this machine" in text


def test_page_without_a_threshold_says_that_it_accepts_nothing(visit, tmp_path):
    path = write(tmp_path, b"9", threshold=None, certificate=None)
    tab = visit(path)
    (answer,) = drop(tab, ("a.png", png(PIL.Image.new("RGB", (5, 4), "red"))))
    assert answer["accepted"] is False
    assert "it accepts no image" in tab.inner_text("#results")


def test_page_shows_values_in_the_log_domain_which_are_not_1(visit, tmp_path):
    score = {"name": "softmax_response_log_odds", "scale": "log_odds"}
    tab = visit(write(tmp_path, b"0.5", threshold=0.5, score=score))
    bright = png(PIL.Image.new("RGB", (5, 4), (0, 204, 0)))
    drop(tab, ("green.png", bright))
    text = tab.inner_text("#results li")
    shown = [
        selective.shown_threshold(score["name"], value) for value in (np.float32(204 / 255), 0.5)
    ]
    assert f"softmax response) {shown[0]}, at least the threshold {shown[1]}" in text


def test_page_names_the_threshold_of_the_predicted_class(visit, tmp_path):
    tab = visit(write(tmp_path, b"0.5", class_thresholds=[None, 0.25, 0.75]))
    pictures = [
        (f"{number}.png", png(PIL.Image.new("RGB", (5, 4), colour)))
        for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 51)])
    ]
    drop(tab, *pictures)
    blue, green, red = tab.locator("#results li").all_inner_texts()
    assert "below the threshold 0.75 of blue" in blue
    assert "at least the threshold 0.25 of green" in green
    assert "it accepts no image as <b>red</b>" in red
    text = tab.inner_text("main")
    assert "at most 2 % are wrong, for 2 of the 3 classes" in text


def test_model_that_cannot_be_loaded_is_reported_on_the_page(visit, tmp_path):
    tab = visit(write(tmp_path, b"damaged"), state="failed")
    line = "The model cannot be loaded in this browser: not a model"
    assert tab.inner_text("#status") == line


def test_page_cannot_send_anything(browser, demo):
    with browser.new_context() as context:
        tab, events = context.new_page(), []
        tab.on("request", lambda request: events.append(request.url))
        tab.goto(demo.as_uri())
        tab.wait_for_selector("body[data-state=ready]")
        refused = tab.evaluate(
            "fetch('http://127.0.0.1:9/').then(() => 'sent', error => String(error))"
        )
        assert "Failed to fetch" in refused
        assert [url for url in events if url.startswith("http")] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", NARROW), ("dark", WIDE)])
def test_page_is_readable_in_every_scheme_and_width(visit, demo, scheme, width):
    tab = visit(demo, scheme=scheme, width=width, bypass_csp=True)
    pictures = [(f"{name * 30}.png", png(PIL.Image.new("RGB", (5, 4), name))) for name in ("red",)]
    drop(tab, *pictures, ("dark.png", png(PIL.Image.new("L", (9, 9)))), ("notes.txt", b"x"))
    texts = tab.evaluate(TEXT_CONTRASTS)
    assert len(texts) > 15
    assert [(text, value) for text, value in texts if value < 4.5] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_file_chooser_is_reachable_by_keyboard(visit, demo):
    tab = visit(demo)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "files"


# With the real runtime


def onnxruntime_web():
    """Returns a copy of onnxruntime-web, or None."""
    given = os.environ.get("KDJAX_ONNXRUNTIME_WEB")
    path = pathlib.Path(given) if given else ROOT
    return path if given or (path / "node_modules" / runtime.PACKAGE).is_dir() else None


@pytest.mark.slow
@pytest.mark.skipif(
    onnxruntime_web() is None,
    reason="no copy of onnxruntime-web: neither $KDJAX_ONNXRUNTIME_WEB nor node_modules has one",
)
def test_network_in_onnxruntime_web_gives_the_outputs_of_onnxruntime(visit, tmp_path):
    shape = (9, 8, 3)
    model = models.create("alexnet_small", 4, width=4)
    images = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0, 0.2, leaf.shape).astype("f4"), shapes)
    model, variables = models.fold_batch_norm(model, variables)

    def function(images):
        logits = model.apply(variables, images.astype(jnp.float32) / 255, train=False) * 5
        confidence = jnp.max(logits[:, :-1], axis=-1)
        label = jnp.argmax(logits[:, :-1], axis=-1).astype(jnp.int32)
        return logits, label, confidence, confidence >= 0.3

    content = formats.to_onnx(function, shape)
    files = runtime.read(onnxruntime_web())
    tab = visit(write(tmp_path, content, files, input={"shape": list(shape), "fit": "crop"}))
    pictures = [picture_of("RGB", (50, 40), seed) for seed in range(4)]
    files = [(f"{seed}.png", png(picture)) for seed, picture in enumerate(pictures)]
    given = drop(tab, *files)[::-1]
    pixels = np.stack([fit(picture, shape, "crop")[0] for picture in pictures])
    expected = formats.run_onnx(content)(pixels)
    assert [answer["label"] for answer in given] == expected.label.tolist()
    assert [answer["accepted"] for answer in given] == expected.accepted.tolist()
    confidences = [answer["confidence"] for answer in given]
    np.testing.assert_allclose(confidences, expected.confidence, atol=1e-5)
