"""docs/how-to/serve.md: its servers answer over HTTP as the model does."""

import io
import json
import threading
import urllib.request

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from support import colours
from support.commands import ROOT
from support.documents import code_blocks

import kdjax.predict
from kdjax.export import formats, onnx_metadata

PAGE = ROOT / "docs" / "how-to" / "serve.md"
SHAPE = (8, 6, 1)
CLASSES = ["dark", "bright"]


def brightness(images):
    """Returns the outputs of a model for bright and dark pictures."""
    values = jnp.mean(images.astype(jnp.float32), axis=(1, 2, 3)) / 255
    logits = jnp.stack([1 - values, values, 0 * values], axis=1)
    confidence = jnp.max(logits[:, :2], axis=-1)
    return logits, jnp.argmax(logits[:, :2], -1).astype(jnp.int32), confidence, confidence >= 0.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model `runs/digits_model`."""
    root = tmp_path_factory.mktemp("served")
    (root / "runs").mkdir()
    fields = {"classes": CLASSES, "input": {"shape": list(SHAPE), "fit": "pad"}}
    content = formats.to_stablehlo(brightness, SHAPE)
    colours.write(root / "runs" / "digits_model", content, **fields)
    return root


@pytest.fixture(scope="module")
def onnx_file(folder):
    """The file `model.onnx` of the model, with the metadata of its card."""
    fields = {"classes": CLASSES, "input": {"shape": list(SHAPE), "fit": "pad"}}
    card = dict.fromkeys(onnx_metadata.FIELDS, "") | fields
    card |= {"data": {"name": "pictures"}, "notes": ["-"], "author": None, "license": None}
    annotated = onnx_metadata.annotate(formats.to_onnx(brightness, SHAPE), card)
    path = folder / "runs" / "digits_model" / formats.ONNX
    path.write_bytes(annotated)
    return path


@pytest.fixture
def blocks(folder, monkeypatch):
    """The code blocks of the page, to be executed in the folder of the model."""
    monkeypatch.chdir(folder)
    return code_blocks(PAGE.read_text(), "python")


def png(value, size=(6, 8)):
    file = io.BytesIO()
    PIL.Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def run(code):
    names = {"__name__": "served"}
    exec(code, names)
    return names


@pytest.mark.slow
def test_fastapi_server_answers_as_the_model(blocks):
    testclient = pytest.importorskip("fastapi.testclient")
    client = testclient.TestClient(run(blocks[0])["app"])
    headers = {"Content-Type": "application/octet-stream"}
    model = kdjax.predict.load("runs/digits_model")
    for value, size in ((250, (60, 80)), (150, (6, 8)), (0, (3, 4))):
        response = client.post("/predict", content=png(value, size), headers=headers)
        expected = model(PIL.Image.new("L", size, value))
        assert response.status_code == 200
        answer = response.json()
        assert answer["label"] == expected.labels[0]
        assert answer["accepted"] == bool(expected.accepted[0])
        assert answer["confidence"] == pytest.approx(float(expected.confidence[0]))
        probabilities = dict(zip(CLASSES, expected.probabilities[0].tolist(), strict=True))
        assert answer["probabilities"] == pytest.approx(probabilities)
    refused = client.post("/predict", content=b"text", headers=headers)
    assert refused.status_code == 415 and "not an image" in refused.json()["detail"]
    assert client.get("/card").json()["classes"] == CLASSES


@pytest.mark.slow
def test_onnxruntime_server_answers_over_http(blocks, onnx_file):
    server = run(blocks[1])["serve"](0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        answers = []
        for value in (255, 150):
            address = f"http://127.0.0.1:{server.server_port}/"
            with urllib.request.urlopen(address, png(value), timeout=30) as response:
                answers.append(json.load(response))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert answers[0] == {"label": "bright", "accepted": True, "confidence": 1.0}
    assert (answers[1]["label"], answers[1]["accepted"]) == ("bright", False)


def test_loaded_model_may_be_called_from_several_threads(folder):
    model = kdjax.predict.load(folder / "runs" / "digits_model")
    images = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), dtype=np.uint8)
    expected, results = model(images).logits, {}

    def call(row):
        results[row] = model(images[row : row + 1]).logits[0]

    threads = [threading.Thread(target=call, args=(row,)) for row in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose([results[row] for row in range(16)], expected, atol=1e-6)
