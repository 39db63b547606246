"""Exports a student or a teacher as StableHLO and ONNX with a model card, and checks the files."""

import json
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
from kdjax.evaluation import per_class, promises
from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.promises import groupwise
from kdjax.evaluation.requested_point import PointRequest, check_request
from kdjax.export import (
    card,
    card_page,
    formats,
    monitoring,
    notes,
    onnx_metadata,
    serving,
    source_network,
)
from kdjax.export.reference import TOLERANCE, Reference, check_file
from kdjax.export.web import page, runtime
from kdjax.models import apply
from kdjax.models.folding import FOLDABLE
from kdjax.paths import require_creatable, user_path
from kdjax.runs import workdir
from kdjax.runtime import atomic_io
from kdjax.selective.scales import SCALES

# Descriptions of the outputs that only a model with a gate has.
GATE_OUTPUTS = {
    "gate_score": "float32 [n]: higher is more like the training images",
    "outlier": "bool [n]: the gate stops the image, gate_score < gate.threshold",
}


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
    classwise: bool = False,
    web: str | None = None,
    license: str | None = None,
    author: str | None = None,
) -> dict[str, Any]:
    """Exports a student or a teacher, including preprocessing, score and threshold.

    The threshold is that of a certificate, or of a coverage, or given: at most one of `risk`,
    `coverage` and `threshold`. Certificates may also be those of the classes.

    Args:
        folder: workdir of a finished, evaluated run, or of its teacher, such as RUN/teacher.
        out: folder to create; an empty one may exist.
        data_dir: the TFDS directory, if not that of the run. Without the data set, the files are
            checked on random pixels, and the threshold is based on the logits saved by the run.
        risk: of the certificate, instead of the run's.
        delta: of the certificate, or of the bound on the risk of another threshold, instead of the
            run's.
        coverage: accept this fraction of dev, in (0, 1], without a certificate.
        threshold: the lowest accepted confidence, without a certificate.
        score: name of the confidence score, instead of the run's.
        classwise: certify a threshold for each predicted class, all of them together, see
            `selective.classwise`; not with `coverage` or `threshold`.
        web: a copy of onnxruntime-web; also writes the browser demo, see `web.runtime.read`.
        license: of the model, for the card and the ONNX file.
        author: of the model, likewise.

    Returns:
        The model card, see `card.FIELDS`. A warning says so if the model abstains on every image.

    Raises:
        InputError: if the workdir has no finished, evaluated network, its teacher cannot be
            exported, see `source_network`, `out` exists, or the operating point cannot be as
            requested, see `requested_point.requested_point`.
        FloatingPointError: if the logits of a file differ from the network's.
    """
    request = PointRequest(
        *(_as_float(risk), _as_float(delta), _as_float(coverage), _as_float(threshold)),
        score,
        classwise,
    )
    check_request(request)
    _require_vacant(out)
    require_creatable(out)
    web_runtime = None if web is None else runtime.read(user_path(web))
    metadata = workdir.read_metadata(folder)
    source_network.require_exportable(folder, metadata)
    results = source_network.read_results(folder)
    names = _file_names(web)
    served, reference = serving.serve(folder, results, data_dir=data_dir, request=request)
    model_card = _card(metadata, results, served, reference)
    model_card |= {
        "cost": source_network.read_cost(folder, metadata),
        "license": license,
        "author": author,
        "monitoring": monitoring.monitoring(
            model_card,
            *(
                served.point.numpy_confidence(served.outputs[split].logits)
                for split in ("dev", "calibration")
            ),
        ),
    }
    contents = _contents(names, served, metadata["dataset"], model_card)
    model_card["files"] = {
        name: {"sha256": card.sha256(content), **_origin(name)}
        | check_file(name, content, reference)
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
    _publish(out.resolve(), contents | {name: text.encode() for name, text in described.items()})
    if model_card["threshold"] is None:
        warnings.warn(notes.abstention_warning(served.point), stacklevel=2)
    return model_card


def _as_float(value: float | None) -> float | None:
    """Returns a number, such as an integer or one of numpy, as JSON holds it."""
    return None if value is None else float(value)


def _require_vacant(out: pathlib.Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists: choose another --out or remove it")
    if out.resolve() == pathlib.Path.cwd():
        raise InputError(
            f"{str(out)!r} is the current folder, which a model cannot replace: choose another "
            "--out"
        )


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
    served: serving.ExportedNetwork,
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
    served: serving.ExportedNetwork,
    reference: Reference,
) -> dict[str, Any]:
    """Returns the model card without `files`, and what `export` adds."""
    dataset, point = metadata["dataset"], served.point
    return {
        "format": card.FORMAT if served.abstains else card.WITHOUT_ABSTENTION,
        "kdjax": kdjax.__version__,
        "jax": jax.__version__,
        "name": source_network.name(metadata),
        "data": {name: dataset[name] for name in ("name", "version")},
        "classes": dataset["class_names"],
        **_signature(metadata, results, served),
        "score": {
            "name": point.score,
            "pnorm": point.pnorm,
            "combination": list(point.combination) if point.combination else None,
            "scale": SCALES.get(point.score),
        },
        "threshold": atomic_io.finite_or_none(point.threshold),
        "class_thresholds": list(map(atomic_io.finite_or_none, point.class_thresholds))
        if point.class_thresholds
        else None,
        "gate": served.gate,
        "certificate": _certificate(served),
        "promises": promises.compute_all(serving.evidence(metadata, results, served)),
        "operating_point": {
            "source": point.source,
            "requested": {
                name: value
                for name, value in served.request._asdict().items()
                if value is not None and value is not False
            },
            "figures": served.figures,
            "bound": served.bound,
        },
        "test": served.test,
        "per_class": per_class.at_operating_point(
            point, served.outputs["test"], dataset["class_names"]
        ),
        "config_sha256": card.sha256_json(metadata),
        "weights_sha256": apply.weights_hash(served.restored.variables),
        "checked": {
            "on": reference.source,
            "tolerance": TOLERANCE,
            "difference_from_run": reference.from_run,
        },
        "notes": notes.notes(metadata["config"], served, reference, results),
    }


def _signature(
    metadata: Mapping[str, Any], results: Mapping[str, Any], served: serving.ExportedNetwork
) -> dict[str, Any]:
    """Returns `input`, `views` and `outputs` of the card."""
    dataset, gate = metadata["dataset"], served.point.gate
    views = results.get("views", deployment_views.NONE)
    averaged = deployment_views.describe(views, flip=metadata["config"]["data"]["flip"])
    return {
        "input": {
            "shape": dataset["image_shape"],
            "dtype": "uint8",
            "axes": "n, height, width, channels; any n",
            "preprocessing": "inside the model: (x / 255 - mean) / std, by channel",
            **{name: dataset[name] for name in ("mean", "std")},
            "fit": dataset.get("fit", STRETCH),
        },
        "views": {
            "name": views,
            "number": len(served.views),
            "meaning": f"inside the model: the mean of the logits over {averaged}",
        },
        "outputs": {
            "logits": _logits_text(results["classes"], served.abstains),
            "label": "int32 [n]: the most probable class, also for abstained images",
            "confidence": "float32 [n]: the score, on the scale of the threshold; higher is more "
            "confident",
            "accepted": f"bool [n]: confidence >= {_threshold_text(served.point)}"
            f"{', and not an outlier' if gate else ''}; otherwise the model abstains",
            **(GATE_OUTPUTS if gate else {}),
        },
    }


def _logits_text(classes: int, abstains: bool) -> str:
    if abstains:
        return f"float32 [n, {classes + 1}]: the classes, then abstention"
    return f"float32 [n, {classes}]: the classes; a teacher has no abstention output"


def _certificate(served: serving.ExportedNetwork) -> dict[str, Any] | None:
    """Returns the certificate of the threshold, or of those of the classes; None without one."""
    point = served.point
    if point.guarantee is None or not point.certified:
        return None
    requested = {name: point.guarantee[name] for name in ("risk", "delta", "examples")}
    logits = {"logits": served.logits_from}
    if point.class_thresholds:
        images = {split: len(served.outputs[split].labels) for split in ("calibration", "test")}
        of_classes = groupwise.overall(point.guarantee["by_class"], images)
        return {"kind": "classwise", **requested, **of_classes, **logits}
    return {"kind": "learn_then_test", **requested, **point.certificate, **logits}


def _threshold_text(point: OperatingPoint) -> str:
    return "that of its class in class_thresholds" if point.class_thresholds else "threshold"


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
