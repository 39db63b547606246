"""Exports the student of a run as StableHLO and ONNX with a model card, and checks the files."""

import json
import pathlib
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

import kdjax
from kdjax.errors import InputError
from kdjax.evaluation import certification
from kdjax.export import card, formats, serving
from kdjax.objectives import METHODS
from kdjax.runs import workdir
from kdjax.training.spec import STUDENT


def export(
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    data_dir: str | None = None,
    risk: float | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """Exports the student of a run, including preprocessing, score and threshold.

    Args:
        folder: workdir of a finished, evaluated run.
        out: folder to create; an empty one may exist.
        data_dir: the TFDS directory, if not that of the run. Without the data set, the files are
            checked on random pixels, and the certificate is based on the logits saved by the run.
        risk: of the certificate, instead of the run's.
        delta: of the certificate, instead of the run's.

    Returns:
        The model card, see `card.FIELDS`. A warning says so if the model abstains on every image.

    Raises:
        InputError: if the workdir has no finished, evaluated student, or `out` exists.
        FloatingPointError: if the logits of a file differ from the network's.
    """
    _require_vacant(out)
    metadata = workdir.read_metadata(folder)
    _require_student(folder, metadata["stage"])
    results = workdir.read_results(folder)
    served, reference = serving.serve(folder, results, data_dir=data_dir, risk=risk, delta=delta)
    function = serving.serving_function(served, metadata["dataset"])
    shape = tuple(metadata["dataset"]["image_shape"])
    contents = {name: formats.FORMATS[name].write(function, shape) for name in _file_names()}
    files = {
        name: {"sha256": card.sha256(content), **_origin(name)}
        | serving.check_file(name, content, reference)
        for name, content in contents.items()
    }
    model_card = _card(metadata, results, served, reference) | {"files": files}
    model_card["notes"] += _decision_notes(files)
    text = json.dumps(model_card, indent=2, allow_nan=False) + "\n"
    _publish(out, {**contents, card.FILE_NAME: text.encode()})
    if not served.point.certified:
        warnings.warn(_abstention_warning(served.point.guarantee or {}), stacklevel=2)
    return model_card


def _require_vacant(out: pathlib.Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists: choose another --out or remove it")


def _require_student(folder: pathlib.Path, stage: str) -> None:
    if stage == workdir.STUDENTS:
        raise workdir.several_students_error(folder)
    if stage != STUDENT:
        raise InputError(f"{str(folder)!r} is the workdir of a teacher: give that of a student")


def _file_names() -> list[str]:
    """Returns the files that the installed packages can write."""
    if formats.onnx_available():
        return list(formats.FORMATS)
    warnings.warn(
        f"no {formats.ONNX}: it needs jax2onnx and onnxruntime, pip install 'kdjax[onnx]'",
        stacklevel=3,
    )
    return [formats.STABLEHLO]


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
    guarantee = point.guarantee or {}
    requested = {name: guarantee[name] for name in ("risk", "delta", "examples")}
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
        },
        "outputs": {
            "logits": f"float32 [n, {results['classes'] + 1}]: the classes, then abstention",
            "label": "int32 [n]: the most probable class, also for abstained images",
            "confidence": "float32 [n]: the score; higher is more confident",
            "accepted": "bool [n]: confidence >= threshold; otherwise the model abstains",
        },
        "score": {"name": point.score, "pnorm": point.pnorm},
        "threshold": point.threshold if point.certified else None,
        "certificate": {
            "kind": "learn_then_test",
            **requested,
            **point.certificate,
            "logits": served.logits_from,
        }
        if point.certified
        else None,
        "test": served.test,
        "config_sha256": card.sha256_json(metadata),
        "checked": {
            "on": reference.source,
            "tolerance": serving.TOLERANCE,
            "difference_from_run": reference.from_run,
        },
        "notes": _notes(metadata["config"], served, reference),
    }


def _notes(
    config: Mapping[str, Any], served: serving.Served, reference: serving.Reference
) -> list[str]:
    """Returns the notes that apply to this model."""
    point, method = served.point, config["objective"]["method"]
    guarantee = point.guarantee or {}
    risk, delta = guarantee["risk"], guarantee["delta"]
    from_run = reference.from_run or 0.0
    notes = {
        f"With probability {1 - delta:g} over the draw of the calibration split, the selective "
        f"risk (error among accepted images) is at most {risk:g} on images from the distribution "
        "of the calibration split.": point.certified,
        f"The certificate is based on the logits of the calibration split, {served.logits_from}. "
        f"{certification.CHOICE}": point.certified,
        f"No threshold could be certified at risk {risk:g} with delta {delta:g}: the model "
        "abstains on every image.": not point.certified,
        f"The abstention output was not trained (method {method}): only the class logits are "
        "meaningful.": not METHODS[method].abstains,
        f"The logits differ by up to {from_run:.2g} from those that the run has saved, which were "
        "computed in bfloat16 or on other hardware: threshold, certificate and test metrics are of "
        "this model.": from_run > serving.TOLERANCE,
        f"{formats.STABLEHLO} was written by jax {jax.__version__}. jax.export guarantees that "
        "versions up to 6 months newer and 3 weeks older, by the build date of jaxlib, can load "
        "it.": True,
    }
    return [note for note, applies in notes.items() if applies]


def _decision_notes(files: Mapping[str, Any]) -> list[str]:
    """Returns a note for each file that does not decide like the run on the calibration split."""
    counts = {name: file["calibration"] for name, file in files.items() if file["calibration"]}
    return [
        f"{name} and the run decide differently on {count['different_decisions']:,} of "
        f"{count['images']:,} calibration images, whose confidences are within rounding of the "
        "threshold or were computed from other logits."
        for name, count in counts.items()
        if count["different_decisions"]
    ]


def _abstention_warning(guarantee: Mapping[str, Any]) -> str:
    """Returns one line: that the model abstains on every image, and what would help."""
    risk, delta, examples = guarantee["risk"], guarantee["delta"], guarantee["examples"]
    needed = certification.least_examples(risk, delta)
    certified = [
        f"{entry['risk']:g}"
        for entry in guarantee["certificates"]
        if entry[certification.LTT]["threshold"] is not None
    ]
    few = (
        f", fewer than the {needed:,} that are needed without an error" if examples < needed else ""
    )
    higher = f" ({', '.join(certified)} can be certified)" if certified else ""
    return (
        "the exported model abstains on every image: no threshold could be certified at risk "
        f"{risk:g} with delta {delta:g} from {examples:,} calibration images{few}. Give a higher "
        f"--risk{higher} or a larger --delta, or train with more calibration images "
        "(data.calibration_fraction)"
    )


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
