"""The exported function, and the comparison of exported files with the network."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, models, selective
from kdjax.data.augment import normalize
from kdjax.data.batches import put_split
from kdjax.evaluation import predictions
from kdjax.evaluation.certification import OperatingPoint, certify_again, operating_point
from kdjax.export import formats
from kdjax.runs import restore, workdir
from kdjax.training import inference

TOLERANCE = 1e-4  # largest allowed difference of a logit from the network's
CHECKED_IMAGES = 256  # number of images on which the outputs are compared
# The default of accelerators rounds the factors of matrix products to about ten bits.
PRECISION = "highest"


class Reference(NamedTuple):
    """Images with the outputs of the network on this machine.

    Attributes:
        images: uint8 [n, h, w, c].
        source: description of the images.
        outputs: of the network, in float32.
        from_run: largest difference of the logits from those of the run; None for random pixels.
    """

    images: np.ndarray
    source: str
    outputs: formats.Outputs
    from_run: float | None


def run_operating_point(
    folder: pathlib.Path, results: Mapping[str, Any], risk: float | None, delta: float | None
) -> OperatingPoint:
    """Returns the operating point of a workdir, certified again from its predictions.

    Args:
        folder: the workdir.
        results: content of `results.json`.
        risk: of the certificate, instead of the run's.
        delta: of the certificate, instead of the run's.

    Raises:
        InputError: without predictions, or for a risk or delta out of range.
    """
    calibration, test = (
        predictions.load(predictions.path_of(folder, split)) for split in ("calibration", "test")
    )
    guarantee = certify_again(results, calibration, test, risk=risk, delta=delta)
    return operating_point({**results, "guarantee": guarantee})


def float32_network(folder: pathlib.Path) -> restore.RestoredModel:
    """Returns the network of a workdir with float32 computation, also if trained in bfloat16.

    Compilers round bfloat16 differently; float32 outputs agree between them.
    """
    restored = restore.restore(folder)
    return restored._replace(model=restored.model.clone(dtype=jnp.float32))


def serving_function(
    restored: restore.RestoredModel, dataset: Mapping[str, Any], point: OperatingPoint
) -> formats.Function:
    """Returns the function uint8 [n, h, w, c] -> the fields of `formats.Outputs`.

    Args:
        restored: the student.
        dataset: of `data.dataset_metadata`.
        point: the operating point.
    """
    # On the host, because an exported file must not contain the placement on devices.
    model, variables = models.fold_batch_norm(restored.model, jax.device_get(restored.variables))
    mean, std = (jnp.asarray(dataset[name], jnp.float32) for name in ("mean", "std"))

    def function(images: jax.Array) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision(PRECISION):
            logits: Any = model.apply(variables, normalize(images, mean, std), train=False)
        return _outputs(logits, point)

    return function


def _outputs(logits: jax.Array, point: OperatingPoint) -> tuple[jax.Array, ...]:
    confidence = point.confidence(logits)
    label = selective.predict(logits).astype(jnp.int32)
    return logits, label, confidence, point.accepts(confidence)


def reference_outputs(
    folder: pathlib.Path,
    restored: restore.RestoredModel,
    point: OperatingPoint,
    data_dir: str | None,
) -> Reference:
    """Returns the network's outputs on test images or, without the data set, on random pixels.

    Raises:
        InputError: if the data set has changed.
    """
    metadata = workdir.read_metadata(folder)
    dataset, fields = metadata["dataset"], metadata["config"]["data"]
    has_data = data.is_prepared(fields["name"], data_dir or fields["dir"] or None)
    if has_data:
        images = restore.load_dataset(folder, data_dir).test.images[:CHECKED_IMAGES]
    else:
        shape = (CHECKED_IMAGES, *dataset["image_shape"])
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (np.asarray(dataset[name], np.float32) for name in ("mean", "std"))
    examples = put_split(data.Split(images, np.zeros(len(images), np.int32)), mean, std)
    with jax.default_matmul_precision(PRECISION):
        logits = inference.predict_logits(*restored, examples, batch_size=CHECKED_IMAGES)
    outputs = formats.Outputs(*jax.device_get(_outputs(jnp.asarray(logits), point)))
    if not has_data:
        return Reference(images, f"{len(images)} images of random pixels", outputs, None)
    run_logits = predictions.load(predictions.path_of(folder, "test")).logits[: len(images)]
    source = f"the first {len(images)} images of test"
    return Reference(images, source, outputs, largest_difference(logits, run_logits))


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns max |a - b|."""
    return float(np.abs(a - b).max())


def check_file(name: str, content: bytes, reference: Reference) -> dict[str, Any]:
    """Runs an exported file and compares its outputs with the network's.

    Args:
        name: a key of `formats.FORMATS`.
        content: of the file.
        reference: images, and the outputs of the network.

    Returns:
        `largest_difference`: of a logit; `different_decisions`: the number of images that only one
        of the two accepts, because of rounding of a confidence at the threshold.

    Raises:
        FloatingPointError: if a logit differs by more than `TOLERANCE`.
    """
    outputs = formats.FORMATS[name].run(content)(reference.images)
    difference = largest_difference(outputs.logits, reference.outputs.logits)
    if not difference <= TOLERANCE:
        raise FloatingPointError(
            f"the logits of {name} differ by {difference:.2g} from the network's, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    return {
        "largest_difference": difference,
        "different_decisions": int(np.sum(outputs.accepted != reference.outputs.accepted)),
    }
