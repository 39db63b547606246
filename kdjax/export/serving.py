"""The exported function, its operating point, and the comparison of its files with the network."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, models, selective
from kdjax.data.augment import normalize
from kdjax.data.batches import put_split
from kdjax.data.deployment_views import IDENTITY, View, average_logits
from kdjax.evaluation import evaluate, network, predictions, requested_point, summary
from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.predictions import Predictions
from kdjax.evaluation.requested_point import PointRequest
from kdjax.export import formats
from kdjax.export.forward import forward
from kdjax.runs import restore, workdir
from kdjax.runtime import compiler

TOLERANCE = 1e-4  # largest allowed difference of a logit from the network's
CHECKED_IMAGES = 256  # images of test, or of random pixels, on which the outputs are compared
BATCH_SIZE = 256  # of the comparison
SPLITS = ("dev", "calibration", "test")


class Served(NamedTuple):
    """The network as it is exported, with its operating point.

    Attributes:
        restored: the student, in float32.
        point: the operating point, chosen on its own logits if the data set is available.
        request: how the operating point was requested.
        logits_from: description of the logits on which the operating point is based.
        outputs: these logits, with the labels, of dev, calibration and test.
        test: accuracy metrics on test.
        delta: probability that a statement about the risk may fail.
        views: over which the logits are averaged, as in the run.
    """

    restored: restore.RestoredModel
    point: OperatingPoint
    request: PointRequest
    logits_from: str
    outputs: Mapping[str, Predictions]
    test: Mapping[str, Any]
    delta: float
    views: tuple[View, ...] = (IDENTITY,)

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """What the operating point accepts of each split, see `requested_point.acceptance`."""
        return {
            split: requested_point.acceptance(self.point, outputs)
            for split, outputs in self.outputs.items()
        }

    @property
    def bound(self) -> dict[str, float] | None:
        """Upper bound on the `risk` of a threshold without a certificate, and its `delta`."""
        if self.request.certified:
            return None
        risk = requested_point.risk_bound(self.figures["calibration"], self.delta)
        return None if risk is None else {"risk": risk, "delta": self.delta}


class Reference(NamedTuple):
    """Images with the outputs of the network on this machine, and the decisions of the run.

    Attributes:
        images: batches, uint8 [b, h, w, c]: all of calibration, then some of test; or some of
            random pixels.
        source: description of the images.
        outputs: of the network, in float32.
        run_accepted: whether the run accepts each calibration image, bool; empty for random
            pixels.
        from_run: largest difference of the logits from those of the run; None for random pixels.
    """

    images: Sequence[Any]
    source: str
    outputs: formats.Outputs
    run_accepted: np.ndarray
    from_run: float | None


def serve(
    folder: pathlib.Path,
    results: Mapping[str, Any],
    *,
    data_dir: str | None,
    request: PointRequest,
) -> tuple[Served, Reference]:
    """Returns the student of a workdir as it is exported, and outputs to compare the files with.

    What the request leaves open is as in the run. The operating point is chosen on the logits of
    the exported network, which are computed here; without the data set, on those that the run has
    saved.

    Args:
        folder: the workdir.
        results: content of `results.json`.
        data_dir: the TFDS directory, if not that of the run.
        request: of the operating point.

    Raises:
        InputError: without predictions or a finished training, for a request that
            `requested_point.requested_point` refuses, or if the data set has changed.
    """
    compiler.set_tuned(restore.load_config(folder).cpu_tuning)
    saved = {split: predictions.load(predictions.path_of(folder, split)) for split in SPLITS}
    run_point = requested_point.requested_point(results, saved, request)
    restored = network.restore_network(folder)
    delta = results["guarantee"]["delta"] if request.delta is None else request.delta
    views = network.evaluated_views(folder, results)
    dataset = _load_dataset(folder, data_dir)
    if dataset is None:
        served = Served(
            restored,
            run_point,
            request,
            "those of the run (no data set at export)",
            saved,
            results["test"],
            delta,
            views,
        )
        return served, _random_reference(folder, served)
    outputs, from_run = _recomputed(folder, restored, dataset, saved, views)
    served = Served(
        restored,
        requested_point.requested_point(results, outputs, request),
        request,
        "those of the exported network, computed at export",
        outputs,
        results["test"]
        if outputs["test"] is saved["test"]
        else summary.accuracy_metrics(outputs["test"]),
        delta,
        views,
    )
    run_accepted = np.asarray(run_point.accepts(run_point.confidence(saved["calibration"].logits)))
    reference = _data_reference(
        dataset, served, outputs["calibration"].logits, run_accepted, from_run
    )
    return served, reference


def _recomputed(
    folder: pathlib.Path,
    restored: restore.RestoredModel,
    dataset: data.Dataset,
    saved: Mapping[str, Predictions],
    views: Sequence[View],
) -> tuple[dict[str, Predictions], float]:
    """Returns the logits of the exported network, and their largest difference from the run's.

    Those of calibration are computed; those of dev and test only if calibration shows that the run
    has saved those of another network: bfloat16, or other hardware.
    """
    batch_size = restore.load_config(folder).eval_batch_size
    computed = evaluate.predict(restored, dataset, ["calibration"], batch_size, views)
    from_run = largest_difference(computed["calibration"].logits, saved["calibration"].logits)
    if from_run > TOLERANCE:
        computed |= evaluate.predict(restored, dataset, ["dev", "test"], batch_size, views)
    return {**saved, **computed}, from_run


def _load_dataset(folder: pathlib.Path, data_dir: str | None) -> data.Dataset | None:
    """Returns the data set of a workdir; None if it is not prepared on this machine."""
    fields = workdir.read_metadata(folder)["config"]["data"]
    if not data.is_prepared(fields["name"], data_dir or fields["dir"] or None):
        return None
    return restore.load_dataset(folder, data_dir)


def _data_reference(
    dataset: data.Dataset,
    served: Served,
    calibration_logits: np.ndarray,
    run_accepted: np.ndarray,
    from_run: float,
) -> Reference:
    """Returns all of calibration and the first images of test, with the network's outputs."""
    test = data.Split(dataset.test.images[:CHECKED_IMAGES], dataset.test.labels[:CHECKED_IMAGES])
    examples = put_split(test, dataset.mean, dataset.std)
    logits = network.predict_logits(
        served.restored, examples, batch_size=CHECKED_IMAGES, views=served.views
    )
    source = (
        f"all {len(calibration_logits)} images of calibration and the first {len(logits)} of test"
    )
    return Reference(
        [*_batches(dataset.calibration.images), *_batches(test.images)],
        source,
        _evaluate(np.concatenate([calibration_logits, logits]), served.point),
        run_accepted,
        from_run,
    )


def _random_reference(folder: pathlib.Path, served: Served) -> Reference:
    dataset = workdir.read_metadata(folder)["dataset"]
    shape = (CHECKED_IMAGES, *dataset["image_shape"])
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (np.asarray(dataset[name], np.float32) for name in ("mean", "std"))
    examples = put_split(data.Split(images, np.zeros(len(images), np.int32)), mean, std)
    logits = network.predict_logits(
        served.restored, examples, batch_size=CHECKED_IMAGES, views=served.views
    )
    outputs = _evaluate(logits, served.point)
    source = f"{len(images)} images of random pixels"
    return Reference([images], source, outputs, np.zeros(0, bool), None)


def _batches(images: Any) -> list[Any]:
    return [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]


def serving_function(served: Served, dataset: Mapping[str, Any]) -> formats.Function:
    """Returns the function uint8 [n, h, w, c] -> the fields of `formats.Outputs`.

    The logits are averaged over the views inside the function.

    Args:
        served: the student with its operating point.
        dataset: of `data.dataset_metadata`.
    """
    # On the host, because an exported file must not contain the placement on devices.
    variables = jax.device_get(served.restored.variables)
    model, variables = models.fold_batch_norm(served.restored.model, variables)
    mean, std = (jnp.asarray(dataset[name], jnp.float32) for name in ("mean", "std"))
    network_of_images = forward(model, variables, tuple(dataset["image_shape"]))

    def logits_of_view(images: jax.Array) -> jax.Array:
        return network_of_images(normalize(images, mean, std))

    def function(images: jax.Array) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision(network.PRECISION):
            logits = average_logits(logits_of_view, images, served.views)
        return _outputs(logits, served.point)

    return function


def _outputs(logits: jax.Array, point: OperatingPoint) -> tuple[jax.Array, ...]:
    confidence = point.confidence(logits)
    label = selective.predict(logits, abstention=True).astype(jnp.int32)
    return logits, label, confidence, point.accepts(confidence)


def _evaluate(logits: np.ndarray, point: OperatingPoint) -> formats.Outputs:
    return formats.Outputs(*jax.device_get(_outputs(jnp.asarray(logits), point)))


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns max |a - b|."""
    return float(np.abs(a - b).max())


def check_file(name: str, content: bytes, reference: Reference) -> dict[str, Any]:
    """Runs an exported file and compares its outputs with the network's and the run's.

    Args:
        name: a key of `formats.FORMATS`.
        content: of the file.
        reference: images, and the outputs of the network.

    Returns:
        `largest_difference`: of a logit; `different_decisions`: the number of images that only one
        of file and network accepts, because of rounding of a confidence at the threshold;
        `calibration`: the number of `images` of the calibration split, of those that the file has
        `accepted`, and of `different_decisions` between file and run; None without the data set.

    Raises:
        FloatingPointError: if a logit differs by more than `TOLERANCE`.
    """
    run = formats.FORMATS[name].run(content)
    batches = [run(np.asarray(images)) for images in reference.images]
    outputs = formats.Outputs(*map(np.concatenate, zip(*batches, strict=True)))
    difference = largest_difference(outputs.logits, reference.outputs.logits)
    if not difference <= TOLERANCE:
        raise FloatingPointError(
            f"the logits of {name} differ by {difference:.2g} from the network's, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    run_accepted = reference.run_accepted
    accepted = outputs.accepted[: len(run_accepted)]
    calibration = {
        "images": len(run_accepted),
        "accepted": int(accepted.sum()),
        "different_decisions": int(np.sum(accepted != run_accepted)),
    }
    return {
        "largest_difference": difference,
        "different_decisions": int(np.sum(outputs.accepted != reference.outputs.accepted)),
        "calibration": calibration if len(run_accepted) else None,
    }
