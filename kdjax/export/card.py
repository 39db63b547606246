"""The model card of an exported model: its fields, reading it, and verifying the files."""

import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import kdjax
from kdjax.data.fit import RESIZES, STRETCH
from kdjax.errors import InputError
from kdjax.selective.scales import LOG, LOG_ODDS

FILE_NAME = "card.json"
FORMAT = 1  # version of the fields below; increased when a field changes its meaning
# The same fields of a model whose logits have no abstention column: versions of kdjax that would
# take its last class for abstention refuse it.
WITHOUT_ABSTENTION = 2
FIELDS: Mapping[str, str] = {
    "format": "version of the card's format, FORMAT; WITHOUT_ABSTENTION of a teacher",
    "kdjax": "version of kdjax that exported the model",
    "jax": "version of JAX that exported the model",
    "name": "name of the run",
    "data": "name and version of the data set",
    "classes": "class names, by label",
    "input": "shape [h, w, c] and dtype of an image, the preprocessing inside the model, and how "
    "images of another size are resized before it (fit; stretch if it is missing)",
    "views": "name and number of the views of an image over which the model averages its logits, "
    "and their meaning; null: of a version without views, the image alone",
    "outputs": "descriptions of the outputs by name, in order",
    "score": "name of the confidence score, p of max_logit_pnorm and coefficients of combination; "
    "scale: log_odds, log(s / (1 - s)), or log, -log(1 - s), of what is shown to people; null or "
    "missing: shown as it is",
    "threshold": "the lowest accepted confidence; null: no image is accepted",
    "class_thresholds": "the lowest accepted confidence of each predicted class, null where none "
    "is accepted; null or missing: `threshold` for all classes",
    "gate": "name and threshold of the gate that stops images unlike those of training, the share "
    "of images like those that it passes with probability 1 - delta (bound), and what it passes of "
    "each split; null: none",
    "operating_point": "how the threshold was determined: its source, what was requested, what it "
    "accepts of dev, calibration and test, and without a certificate a bound on its risk",
    "certificate": "kind: learn_then_test, or classwise if its risk holds within each class; risk, "
    "delta and coverage for which the threshold is certified, and the logits on which it is based; "
    "null: none",
    "promises": "what is promised, by name, see kdjax.evaluation.promises; null: of a version "
    "without them",
    "test": "metrics of the exported network on the test split",
    "per_class": "coverage and selective risk on test by true and by predicted class, with "
    "intervals, and warnings about classes; see kdjax.evaluation.per_class",
    "config_sha256": "SHA-256 of the run's config.json",
    "weights_sha256": "SHA-256 of the numbers of the network, by which a cascade recognizes it; "
    "null: of a version without it",
    "checked": "images on which the files were compared with the network, and the tolerance",
    "files": "for each file: SHA-256, origin, differences from the network, and from the decisions "
    "of the run on the calibration split",
    "notes": "notes for users of the model",
    "cost": "of student and teacher: parameters, number of views, multiply-adds for one image over "
    "all views, and latency in seconds by batch size, measured on `machine`; null: not measured",
    "monitoring": "what a monitor watches, see kdjax.export.monitoring: bounds of the risk and of "
    "the coverage, and the confidences of calibration, in groups; null: of a version without it",
    "license": "of the model, as given at export; null: not stated",
    "author": "of the model, likewise",
}
# Fields that cards of earlier versions lack; `read` gives them the value null.
OPTIONAL = frozenset(
    {
        "per_class",
        "gate",
        "operating_point",
        "promises",
        "class_thresholds",
        "views",
        "cost",
        "monitoring",
        "license",
        "author",
        "weights_sha256",
    }
)


_Check = Callable[[Any], bool]


def _any(value: Any) -> bool:
    return True


def _optional(check: _Check) -> _Check:
    """Returns the check of a value that may be null."""
    return lambda value: value is None or check(value)


def _mapping(**checks: _Check) -> _Check:
    """Returns the check of an object with these fields; a missing one is checked as null."""
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(name)) for name, check in checks.items())
    )


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_input(value: Any) -> bool:
    shape = value.get("shape") if isinstance(value, dict) else None
    if not isinstance(shape, list) or len(shape) != 3:
        return False
    if value.get("fit", STRETCH) not in RESIZES:
        return False
    return all(isinstance(size, int) and size > 0 for size in shape)


def _are_names(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 2:
        return False
    return all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(file, dict) and "sha256" in file for file in value.values()
    )


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number, and a finite one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -math.inf < value < math.inf


def _is_reference(value: Any) -> bool:
    """Returns whether a value has the fields of a `selective.DriftReference`."""
    if not _mapping(edges=_list_of(_is_number), counts=_list_of(_is_count))(value):
        return False
    edges, counts = value["edges"], value["counts"]
    return 0 < len(edges) == len(counts) - 1 and all(a < b for a, b in pairwise(edges))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_is_object = _mapping()
_is_bound = _optional(_mapping(bound=_is_number))
_is_network = _optional(_mapping(multiply_adds=_is_number))
_has_bounds = _mapping(risk=_is_bound, coverage=_is_bound, drift=_optional(_is_reference))
# Checks of the fields that programs read.
_CHECKS: Mapping[str, _Check] = {
    "classes": _are_names,
    "input": _is_input,
    "views": _optional(_is_object),
    "score": _optional(_mapping(scale=lambda value: value in (None, LOG_ODDS, LOG))),
    "threshold": _optional(_is_number),
    "class_thresholds": _optional(_list_of(_optional(_is_number))),
    "certificate": _optional(_mapping(risk=_is_number, delta=_is_number)),
    "promises": _optional(lambda value: _is_object(value) and all(map(_is_object, value.values()))),
    "files": _are_files,
    "cost": _optional(_mapping(student=_is_network, teacher=_is_network)),
    "monitoring": _optional(
        lambda value: _has_bounds(value) and {"risk", "coverage", "drift"} <= set(value)
    ),
}


def sha256(content: bytes) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of key order and whitespace."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode())


def _hint(folder: pathlib.Path) -> str:
    """Returns what to give instead of a path that is no folder of a model; empty if unknown."""
    if folder.is_file() and (folder.parent / FILE_NAME).exists():
        return f"; give the folder of the file, {str(folder.parent)!r}"
    if (folder / "config.json").exists():
        return f"; it is a workdir, whose model kdjax export --workdir={folder} writes"
    return ""


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the card in the folder of a model; see `FIELDS`.

    Raises:
        InputError: if the card is missing, damaged, or of another format.
    """
    path = folder / FILE_NAME
    try:
        card = json.loads(path.read_text())
    except OSError as error:
        message = f"no model in {str(folder)!r}: {FILE_NAME} cannot be read{_hint(folder)}"
        raise InputError(message) from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(card, dict) or "format" not in card:
        raise InputError(f"{str(path)!r} is not a model card of kdjax")
    if card["format"] not in (FORMAT, WITHOUT_ABSTENTION):
        raise InputError(
            f"{str(path)!r} has format {card['format']!r}, written by kdjax "
            f"{card.get('kdjax')}: kdjax {kdjax.__version__} reads formats {FORMAT} and "
            f"{WITHOUT_ABSTENTION}"
        )
    complete: dict[str, Any] = {**dict.fromkeys(OPTIONAL), **card}
    invalid = [
        field
        for field in FIELDS
        if field not in complete or not _CHECKS.get(field, _any)(complete[field])
    ]
    thresholds = complete["class_thresholds"]
    if not invalid and thresholds is not None and len(thresholds) != len(complete["classes"]):
        invalid = ["class_thresholds"]
    if invalid:
        raise InputError(f"{str(path)!r} is damaged: {invalid[0]!r} is missing or invalid")
    return complete


def read_file(folder: pathlib.Path, card: Mapping[str, Any], name: str) -> bytes:
    """Returns the content of a file of a model, verified by its checksum.

    Args:
        folder: of the model.
        card: of `read`.
        name: of the file.

    Raises:
        InputError: if the file is not listed in the card, missing, or changed.
    """
    path = folder / name
    if name not in card["files"]:
        raise InputError(f"the model in {str(folder)!r} has no {name}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if sha256(content) != card["files"][name]["sha256"]:
        raise InputError(f"{str(path)!r} is damaged: its checksum is not that of {FILE_NAME}")
    return content
