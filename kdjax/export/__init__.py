"""A trained student as files that run without kdjax: StableHLO, ONNX and a card."""

import json
import math
import pathlib
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

import kdjax
from kdjax import card, formats, objectives, stage, workdir
from kdjax.errors import InputError
from kdjax.export import serving
from kdjax.report import guarantees


def export(
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    data_dir: str | None = None,
    risk: float | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """Writes a run's student, with preprocessing, score and threshold inside, and checks it.

    Args:
        folder: the workdir of a finished, evaluated run.
        out: the folder to make; it may exist, empty.
        data_dir: of TFDS, if the data have moved since. Without the data, the files are checked
            on random pixels.
        risk: that the threshold is certified for, in place of the run's.
        delta: of the certificate, in place of the run's.

    Returns:
        The card, see `card.FIELDS`.

    Raises:
        InputError: for a workdir that holds no finished, evaluated student, or an `out` in use.
        FloatingPointError: if a file does not give the network's logits.
    """
    _require_vacant(out)
    identity = workdir.read(folder)
    if identity["stage"] != stage.STUDENT:
        raise InputError(f"{str(folder)!r} is a teacher's workdir: a student's is needed")
    found = workdir.read_results(folder)
    rule = serving.rule(folder, found, risk, delta)
    trained = serving.network(folder)
    expected = serving.sample(folder, trained, rule, data_dir)
    function = serving.serve(trained, identity["dataset"], rule)
    shape = tuple(identity["dataset"]["image_shape"])
    contents = {name: formats.FORMATS[name].write(function, shape) for name in _names()}
    files = {
        name: {"sha256": card.sha256(content), **_origin(name)}
        | serving.check(name, content, expected)
        for name, content in contents.items()
    }
    about = _card(identity, found, rule, expected) | {"files": files}
    text = json.dumps(about, indent=2, allow_nan=False) + "\n"
    _publish(out, {**contents, card.NAME: text.encode()})
    return about


def _require_vacant(out: pathlib.Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} is in use: choose another --out, or remove it")


def _names() -> list[str]:
    """The files that can be written here."""
    if formats.onnx_at_hand():
        return list(formats.FORMATS)
    warnings.warn(
        f"no {formats.ONNX}: jax2onnx and onnxruntime are needed, pip install 'kdjax[onnx]'",
        stacklevel=3,
    )
    return [formats.STABLEHLO]


def _origin(name: str) -> dict[str, Any]:
    if name == formats.ONNX:
        return {"written_by": f"jax2onnx {version('jax2onnx')}", "opset": formats.OPSET}
    return {"written_by": f"jax {jax.__version__}", "platforms": list(formats.PLATFORMS)}


def _card(
    identity: Mapping[str, Any],
    found: Mapping[str, Any],
    rule: serving.Rule,
    expected: serving.Sample,
) -> dict[str, Any]:
    """Returns the card but for its files."""
    about, certificate = identity["dataset"], guarantees.operating(rule.guarantee)
    asked = {name: rule.guarantee[name] for name in ("risk", "delta", "examples")}
    certified = certificate["threshold"] is not None
    return {
        "format": card.FORMAT,
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "name": identity["config"]["name"],
        "data": {name: about[name] for name in ("name", "version")},
        "classes": about["class_names"],
        "input": {
            "shape": about["image_shape"],
            "dtype": "uint8",
            "axes": "n, height, width, channels; any n",
            "preprocessing": "inside the model: (x / 255 - mean) / std, by channel",
            **{name: about[name] for name in ("mean", "std")},
        },
        "outputs": {
            "logits": f"float32 [n, {found['classes'] + 1}]: the classes, then abstention",
            "label": "int32 [n]: the most probable class, also where the model abstains",
            "confidence": "float32 [n]: the score; higher is more confident",
            "accepted": "bool [n]: confidence >= threshold; elsewhere the model abstains",
        },
        "score": {"name": found["best_score"], "pnorm": found["pnorm"]},
        "threshold": certificate["threshold"],
        "certificate": {"kind": "learn_then_test", **asked, **certificate} if certified else None,
        "test": found["test"],
        "config_sha256": card.of_json(identity),
        "checked": {
            "on": expected.source,
            "tolerance": serving.TOLERANCE,
            "difference_from_run": expected.from_run,
        },
        "notes": _notes(identity["config"], rule, expected),
    }


def _notes(config: Mapping[str, Any], rule: serving.Rule, expected: serving.Sample) -> list[str]:
    risk, delta = rule.guarantee["risk"], rule.guarantee["delta"]
    certified, method = rule.threshold < math.inf, config["objective"]["method"]
    from_run = expected.from_run or 0.0
    notes = {
        f"With probability {1 - delta:g} over calibration samples, the error among accepted "
        f"images is at most {risk:g}, on images drawn as the calibration split was.": certified,
        f"No threshold could be certified at risk {risk:g} with delta {delta:g}: everything is "
        "abstained on.": not certified,
        f"The column of abstention was not trained (method {method}): "
        "only the class logits say anything.": method not in objectives.WITH_ABSTENTION,
        f"The run's own logits, which the certificate is made of, differ from these by up to "
        f"{from_run:.2g}: they were computed in bfloat16, or on other hardware.": from_run
        > serving.TOLERANCE,
        f"{formats.STABLEHLO} was written by jax {jax.__version__}: an older jax may not load it. "
        "jax.export promises that one up to 6 months newer does, and one up to 3 weeks older, by "
        "the day that its jaxlib was built.": True,
    }
    return [note for note, holds in notes.items() if holds]


def _publish(out: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Makes the folder with all its files at once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = pathlib.Path(scratch, "model")
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        folder.rename(out)
