"""Metadata of an exported ONNX file: what it is, without the model card beside it."""

import json
from collections.abc import Mapping
from typing import Any

import kdjax

# Keys that the ONNX specification defines; those of kdjax have a prefix.
_STANDARD = {
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}
_PIXEL_FORMATS = {1: "Gray8", 3: "Rgb8"}
PREFIX = "kdjax."
# Fields of the card that are copied; texts as they are, other values as JSON.
FIELDS = (
    "name",
    "data",
    "classes",
    "input",
    "views",
    "outputs",
    "score",
    "threshold",
    "class_thresholds",
    "gate",
    "certificate",
    "operating_point",
    "config_sha256",
    "notes",
)


def metadata(model_card: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metadata properties of the ONNX file.

    The keys `model_author`, `model_license` and `Image.*` are those of the ONNX specification
    (MetadataProps); those of kdjax are fields of the card with the prefix `kdjax.`.

    Args:
        model_card: see `kdjax.export.card.FIELDS`.
    """
    channels = model_card["input"]["shape"][-1]
    copied = {f"{PREFIX}{name}": _text(model_card[name]) for name in FIELDS}
    return {
        "model_author": model_card["author"] or "not stated",
        "model_license": model_card["license"] or "not stated",
        **({"Image.BitmapPixelFormat": form} if (form := _PIXEL_FORMATS.get(channels)) else {}),
        **_STANDARD,
        f"{PREFIX}version": kdjax.__version__,
        **copied,
    }


def description(model_card: Mapping[str, Any]) -> str:
    """Returns the documentation string of the ONNX file."""
    shape = ", ".join(map(str, model_card["input"]["shape"]))
    gate = (
        ", gate_score, outlier (true: the gate stops the image)" if model_card.get("gate") else ""
    )
    return (
        f"{model_card['name']}: image classifier with abstention, {len(model_card['classes'])} "
        f"classes of {model_card['data']['name']}. Input images: uint8 [n, {shape}], preprocessing "
        f"inside. Outputs: logits, label, confidence, accepted (false: the model abstains){gate}. "
        f"{model_card['notes'][0]}"
    )


def annotate(content: bytes, model_card: Mapping[str, Any]) -> bytes:
    """Returns an ONNX file with the metadata of a model card.

    Args:
        content: of the file.
        model_card: see `kdjax.export.card.FIELDS`; `files` is not needed.
    """
    import onnx

    model = onnx.load_from_string(content)
    model.producer_name, model.producer_version = "kdjax", kdjax.__version__
    model.model_version = 1
    model.doc_string = description(model_card)
    model.graph.name = model_card["name"]
    onnx.helper.set_model_props(model, metadata(model_card))
    return bytes(model.SerializeToString())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
