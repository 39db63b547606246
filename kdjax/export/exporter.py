"""Exports the student of a run as StableHLO and ONNX with a model card, and checks the files."""

import json
import math
import pathlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import kdjax
from kdjax.data import deployment_views
from kdjax.data.fit import STRETCH
from kdjax.errors import InputError
from kdjax.evaluation import cost, per_class
from kdjax.evaluation.requested_point import PointRequest, check_request
from kdjax.export import card, card_page, formats, notes, onnx_metadata, serving
from kdjax.export.web import page, runtime
from kdjax.models.folding import FOLDABLE
from kdjax.runs import workdir
from kdjax.runtime.paths import user_path
from kdjax.selective.scales import SCALES
from kdjax.training.spec import STUDENT


def export(
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    data_dir: str | None = None,
    risk: float | None = None,
    delta: float | None = None,
    coverage: float | None = None,
    threshold: float | None = None,
    score: str | None = None,
    web: str | None = None,
    license: str | None = None,
    author: str | None = None,
) -> dict[str, Any]:
    """Exports the student of a run, including preprocessing, score and threshold.

    The threshold is that of a certificate, or of a coverage, or given: at most one of `risk`,
    `coverage` and `threshold`.

    Args:
        folder: workdir of a finished, evaluated run.
        out: folder to create; an empty one may exist.
        data_dir: the TFDS directory, if not that of the run. Without the data set, the files are
            checked on random pixels, and the threshold is based on the logits saved by the run.
        risk: of the certificate, instead of the run's.
        delta: of the certificate, or of the bound on the risk of another threshold, instead of the
            run's.
        coverage: accept this fraction of dev, in (0, 1], without a certificate.
        threshold: the lowest accepted confidence, without a certificate.
        score: name of the confidence score, instead of the run's.
        web: a copy of onnxruntime-web; also writes the browser demo, see `web.runtime.read`.
        license: of the model, for the card and the ONNX file.
        author: of the model, likewise.

    Returns:
        The model card, see `card.FIELDS`. A warning says so if the model abstains on every image.

    Raises:
        InputError: if the workdir has no finished, evaluated student, `out` exists, or the
            operating point cannot be as requested, see `requested_point.requested_point`.
        FloatingPointError: if the logits of a file differ from the network's.
    """
    request = PointRequest(risk, delta, coverage, threshold, score)
    check_request(request)
    _require_vacant(out)
    web_runtime = None if web is None else runtime.read(user_path(web))
    metadata = workdir.read_metadata(folder)
    _require_student(folder, metadata["stage"])
    results = workdir.read_results(folder)
    names = _file_names(web)
    served, reference = serving.serve(folder, results, data_dir=data_dir, request=request)
    model_card = _card(metadata, results, served, reference)
    model_card |= {"cost": cost.read_cost(folder), "license": license, "author": author}
    contents = _contents(names, served, metadata["dataset"], model_card)
    model_card["files"] = {
        name: {"sha256": card.sha256(content), **_origin(name)}
        | serving.check_file(name, content, reference)
        for name, content in contents.items()
    }
    model_card["notes"] += notes.decision_notes(model_card["files"])
    if web_runtime is not None:
        if formats.ONNX not in contents:
            raise InputError(
                f"--web needs {formats.ONNX}, which cannot be written for this network"
            )
        demo = page.render(model_card, contents[formats.ONNX], web_runtime)
        contents[page.FILE_NAME] = demo.encode()
    text = json.dumps(model_card, indent=2, allow_nan=False) + "\n"
    described = {card.FILE_NAME: text, card_page.FILE_NAME: card_page.render(model_card)}
    _publish(out, contents | {name: text.encode() for name, text in described.items()})
    if model_card["threshold"] is None:
        warnings.warn(notes.abstention_warning(served.point), stacklevel=2)
    return model_card


def _require_vacant(out: pathlib.Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists: choose another --out or remove it")


def _require_student(folder: pathlib.Path, stage: str) -> None:
    if stage == workdir.STUDENTS:
        raise workdir.several_students_error(folder)
    if stage != STUDENT:
        raise InputError(f"{str(folder)!r} is the workdir of a teacher: give that of a student")


def _file_names(web: str | None) -> list[str]:
    """Returns the files that the installed packages can write."""
    if formats.onnx_available():
        return list(formats.FORMATS)
    needs = f"no {formats.ONNX}: it needs jax2onnx and onnxruntime, pip install 'kdjax[onnx]'"
    if web is not None:
        raise InputError(f"--web: {needs}")
    warnings.warn(needs, stacklevel=3)
    return [formats.STABLEHLO]


def _contents(
    names: Sequence[str],
    served: serving.Served,
    dataset: Mapping[str, Any],
    model_card: Mapping[str, Any],
) -> dict[str, bytes]:
    """Returns the model files by name."""
    function = serving.serving_function(served, dataset)
    shape = tuple(dataset["image_shape"])
    written = {name: _write(name, function, shape, served.restored.model) for name in names}
    contents = {name: content for name, content in written.items() if content is not None}
    if formats.ONNX in contents:
        contents[formats.ONNX] = onnx_metadata.annotate(contents[formats.ONNX], model_card)
    return contents


def _write(
    name: str, function: formats.Function, shape: tuple[int, ...], model: nn.Module
) -> bytes | None:
    """Returns the content of a model file; None, with a warning, if ONNX cannot express a network.

    Only a network of the user may fail: those of kdjax have been tried.
    """
    if name != formats.ONNX or isinstance(model, FOLDABLE):
        return formats.FORMATS[name].write(function, shape)
    try:
        content = formats.to_onnx(function, shape)
        formats.run_onnx(content)(np.zeros((1, *shape), np.uint8))
    except Exception as error:  # of jax2onnx or onnxruntime, of any type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        reason += formats.conversion_hint(error)
        warnings.warn(
            f"no {name}: jax2onnx {version('jax2onnx')} cannot convert the network "
            f"{getattr(model, 'reference', type(model).__name__)}: {reason}",
            stacklevel=4,
        )
        return None
    return content


def _origin(name: str) -> dict[str, Any]:
    if name == formats.ONNX:
        return {
            "written_by": f"jax2onnx {version('jax2onnx')}",
            "opset": formats.OPSET,
            "tried_with": f"onnxruntime {version('onnxruntime')}",
        }
    return {"written_by": f"jax {jax.__version__}", "platforms": list(formats.PLATFORMS)}


def _card(
    metadata: Mapping[str, Any],
    results: Mapping[str, Any],
    served: serving.Served,
    reference: serving.Reference,
) -> dict[str, Any]:
    """Returns the model card without the field `files`."""
    dataset, point = metadata["dataset"], served.point
    return {
        "format": card.FORMAT,
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "name": metadata["config"]["name"],
        "data": {name: dataset[name] for name in ("name", "version")},
        "classes": dataset["class_names"],
        "input": {
            "shape": dataset["image_shape"],
            "dtype": "uint8",
            "axes": "n, height, width, channels; any n",
            "preprocessing": "inside the model: (x / 255 - mean) / std, by channel",
            **{name: dataset[name] for name in ("mean", "std")},
            "fit": dataset.get("fit", STRETCH),
        },
        "views": {
            "name": results.get("views", deployment_views.NONE),
            "number": len(served.views),
            "meaning": "inside the model: the mean of the logits over "
            + deployment_views.describe(
                results.get("views", deployment_views.NONE),
                flip=metadata["config"]["data"]["flip"],
            ),
        },
        "outputs": {
            "logits": f"float32 [n, {results['classes'] + 1}]: the classes, then abstention",
            "label": "int32 [n]: the most probable class, also for abstained images",
            "confidence": "float32 [n]: the score, on the scale of the threshold; higher is more "
            "confident",
            "accepted": "bool [n]: confidence >= threshold; otherwise the model abstains",
        },
        "score": {
            "name": point.score,
            "pnorm": point.pnorm,
            "combination": list(point.combination) if point.combination else None,
            "scale": SCALES.get(point.score),
        },
        "threshold": point.threshold if math.isfinite(point.threshold) else None,
        "certificate": _certificate(served),
        "operating_point": {
            "source": point.source,
            "requested": {
                name: value for name, value in served.request._asdict().items() if value is not None
            },
            "figures": served.figures,
            "bound": served.bound,
        },
        "test": served.test,
        "per_class": per_class.at_operating_point(
            point, served.outputs["test"], dataset["class_names"]
        ),
        "config_sha256": card.sha256_json(metadata),
        "checked": {
            "on": reference.source,
            "tolerance": serving.TOLERANCE,
            "difference_from_run": reference.from_run,
        },
        "notes": notes.notes(metadata["config"], served, reference, results),
    }


def _certificate(served: serving.Served) -> dict[str, Any] | None:
    """Returns the certificate of the threshold; None if there is none."""
    point = served.point
    if point.guarantee is None or not point.certified:
        return None
    requested = {name: point.guarantee[name] for name in ("risk", "delta", "examples")}
    logits = {"logits": served.logits_from}
    return {"kind": "learn_then_test", **requested, **point.certificate, **logits}


def _publish(out: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Creates the folder with all files atomically."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = pathlib.Path(scratch, "model")
        folder.mkdir()
        for name, content in contents.items():
            try:
                (folder / name).write_bytes(content)
            except OSError as error:  # Python does not name the file when the disk is full
                raise OSError(error.errno, error.strerror, str(out / name)) from error
        folder.rename(out)
