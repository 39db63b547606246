"""The browser demo: one HTML page with the model, the runtime and the card, without a network."""

import base64
import gzip
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from kdjax import selective
from kdjax.data.fit import STRETCH
from kdjax.export import card_page
from kdjax.export.web.runtime import PACKAGE, Runtime

FILE_NAME = "demo.html"
TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(model_card: Mapping[str, Any], model: bytes, runtime: Runtime) -> str:
    """Returns the page.

    Args:
        model_card: see `kdjax.export.card.FIELDS`.
        model: the ONNX file.
        runtime: onnxruntime-web.
    """
    parts = {
        "title": _escape(model_card["name"]),
        "style": _template("style.css"),
        "card": _json(page_card(model_card, runtime.version)),
        "model": _embed(model),
        "wasm": _embed(runtime.wasm),
        "glue": _embed(runtime.glue),
        "runtime": _script(runtime.script.decode()),
        "picture": _template("picture.js"),
        "demo": _template("demo.js"),
    }
    before, *sections = _template("demo.html").split("[[")
    page = [before]
    for section in sections:
        name, _, after = section.partition("]]")
        page += [parts[name], after]
    return "".join(page)


def page_card(model_card: Mapping[str, Any], runtime_version: str) -> dict[str, Any]:
    """Returns what the page shows of a model card, as values for JSON."""
    height, width, channels = shape = model_card["input"]["shape"]
    data, score = model_card["data"], model_card["score"]
    colours = "grey" if channels == 1 else "RGB"
    return {
        "classes": model_card["classes"],
        "shape": shape,
        "fit": model_card["input"].get("fit", STRETCH),
        "threshold": model_card["threshold"],
        "class_thresholds": model_card.get("class_thresholds"),
        "score": selective.display_name(score["name"]),
        "scale": score.get("scale"),
        "texts": {
            "title": model_card["name"],
            "summary": f"An image classifier that abstains when it is unsure; "
            f"{len(model_card['classes'])} classes of {data['name']}.",
            "promise": f"Promise: {card_page.promise(model_card)}",
            "preprocessing": "An image is turned upright, put on black where it is transparent, "
            f"converted to {colours} and fitted to {width} x {height} pixels as by kdjax. The "
            "browser decodes it: pixels of JPEG files, 16-bit and transparent images may differ "
            "by a few of 255 levels from kdjax, and a confidence at the threshold may then be on "
            "its other side.",
            "versions": f"kdjax {model_card['kdjax']}, {PACKAGE} {runtime_version}.",
        },
    }


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text().rstrip("\n")


def _embed(content: bytes) -> str:
    """Returns a file compressed and encoded as text; the same content gives the same text."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _json(value: Any) -> str:
    """Returns JSON that cannot end the script element that contains it."""
    return json.dumps(value).replace("<", "\\u003c")


def _script(source: str) -> str:
    """Returns JavaScript without text that would end its script element, or link to other files."""
    return source.replace("</script", "<\\/script")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
