"""The exported function, its operating point, and the images on which its files are compared."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, selective
from kdjax.data.augment import normalize
from kdjax.data.batches import Examples, put_split
from kdjax.data.deployment_views import IDENTITY, View, average_logits
from kdjax.errors import InputError
from kdjax.evaluation import (
    fallback,
    gate_features,
    network,
    predictions,
    promises,
    requested_point,
    summary,
)
from kdjax.evaluation import gate as gates
from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.evaluation.requested_point import PointRequest
from kdjax.export import formats, source_network
from kdjax.export.forward import forward
from kdjax.export.reference import TOLERANCE, Reference, largest_difference
from kdjax.models import apply
from kdjax.models.features import WithFeatures
from kdjax.runs import restore, workdir
from kdjax.runtime import compiler
from kdjax.selective import outliers
from kdjax.selective.outliers import ClassGaussian
from kdjax.training import teacher_network

CHECKED_IMAGES = 256  # images of test, or of random pixels, on which the outputs are compared
BATCH_SIZE = 256  # of the comparison


class ExportedNetwork(NamedTuple):
    """The network as it is exported, with its operating point.

    Attributes:
        restored: the student or teacher, in float32.
        point: the operating point, chosen on its own logits if the data set is available.
        request: how the operating point was requested.
        logits_from: description of the logits on which the operating point is based.
        outputs: these logits, with the labels, of dev, calibration and test.
        test: accuracy metrics on test.
        delta: probability that a statement about the risk may fail.
        views: over which the logits are averaged, as in the run.
        abstains: whether the network has an abstention output, which a teacher has not. The logits
            of `outputs` have its column in any case.
        extras: for promises.
        run_gate: `gate` of the results of the run; None without a gate.
        fitted: distributions of the features; None unless the gate needs them.
    """

    restored: restore.RestoredModel
    point: OperatingPoint
    request: PointRequest
    logits_from: str
    outputs: Mapping[str, Predictions]
    test: Mapping[str, Any]
    delta: float
    views: tuple[View, ...] = (IDENTITY,)
    abstains: bool = True
    extras: promises.Extras = promises.Extras()
    run_gate: Mapping[str, Any] | None = None
    fitted: ClassGaussian | None = None

    @property
    def gate(self) -> dict[str, Any] | None:
        """What the gate of the run passes of these outputs, see `gate.measure`; None without."""
        if self.point.gate is None or self.run_gate is None:
            return None
        return gates.measure(
            self.point.gate,
            self.outputs,
            acceptance=self.run_gate["acceptance"],
            delta=self.delta,
        )

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


def serve(
    folder: pathlib.Path,
    results: Mapping[str, Any],
    *,
    data_dir: str | None,
    request: PointRequest,
) -> tuple[ExportedNetwork, Reference]:
    """Returns the network of a workdir as it is exported, and outputs to compare the files with.

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
    metadata = workdir.read_metadata(folder)
    raw = {split: predictions.load(predictions.path_of(folder, split)) for split in SPLITS}
    saved = source_network.with_abstention(raw, metadata)
    run_point = requested_point.requested_point(results, saved, request)
    dataset = _load_dataset(folder, data_dir)
    restored = source_network.load(folder, metadata, dataset)
    _check_evaluated(folder, restored, results)
    served = ExportedNetwork(
        restored,
        run_point,
        request,
        "those of the run (no data set at export)",
        saved,
        results["test"],
        results["guarantee"]["delta"] if request.delta is None else request.delta,
        network.evaluated_views(folder, results),
        source_network.abstains(metadata),
        run_gate=results.get("gate"),
        fitted=gates.load_fitted(folder, run_point.gate),
        extras=fallback.saved_extras(folder, results, saved)._replace(
            groups=predictions.stored_groups(folder, SPLITS)
        ),
    )
    if dataset is None:
        return served, _random_reference(folder, served)
    computed, from_run = _recomputed(folder, served, dataset, raw)
    outputs = source_network.with_abstention(computed, metadata)
    is_saved = computed["test"] is raw["test"]
    served = served._replace(
        point=requested_point.requested_point(results, outputs, request),
        logits_from="those of the exported network, computed at export",
        outputs=outputs,
        test=results["test"] if is_saved else summary.accuracy_metrics(outputs["test"]),
    )
    calibration = saved["calibration"]
    run_accepted = run_point.decide(calibration)
    reference = _data_reference(dataset, served, computed["calibration"], run_accepted, from_run)
    return served, reference


def _check_evaluated(
    folder: pathlib.Path, restored: restore.RestoredModel, results: Mapping[str, Any]
) -> None:
    """Raises if the network of a workdir is not the one whose results it has.

    Results of an earlier version, and those of teachers, do not say of which network they are.
    """
    evaluated = results.get("weights_sha256")
    if evaluated is not None and evaluated != apply.weights_hash(restored.variables):
        raise InputError(
            f"{str(folder)!r}: the checkpoint is not that of the network that was evaluated, as in "
            f"an incomplete copy of the workdir: {workdir.evaluate_command(folder)} evaluates it"
        )


def _recomputed(
    folder: pathlib.Path,
    served: ExportedNetwork,
    dataset: data.Dataset,
    saved: Mapping[str, Predictions],
) -> tuple[dict[str, Predictions], float]:
    """Returns the logits of the exported network, and their largest difference from the run's.

    Those of calibration are computed; those of dev and test only if calibration shows that the run
    has saved those of another network: bfloat16, or other hardware.
    """
    batch_size = restore.load_config(folder).eval_batch_size
    predict = functools.partial(
        gate_features.predict_splits,
        served.restored,
        served.fitted,
        dataset,
        batch_size=batch_size,
        views=served.views,
    )
    computed = predict(["calibration"])
    from_run = largest_difference(computed["calibration"].logits, saved["calibration"].logits)
    if from_run > TOLERANCE:
        computed |= predict(["dev", "test"])
    return {**saved, **computed}, from_run


def _load_dataset(folder: pathlib.Path, data_dir: str | None) -> data.Dataset | None:
    """Returns the data set of a workdir; None if it is not prepared on this machine."""
    fields = workdir.read_metadata(folder)["config"]["data"]
    if not data.is_prepared(fields["name"], data_dir or fields["dir"] or None):
        return None
    return restore.load_dataset(folder, data_dir)


def _data_reference(
    dataset: data.Dataset,
    served: ExportedNetwork,
    calibration: Predictions,
    run_accepted: np.ndarray,
    from_run: float,
) -> Reference:
    """Returns all of calibration and the first images of test, with the network's outputs."""
    test = data.Split(dataset.test.images[:CHECKED_IMAGES], dataset.test.labels[:CHECKED_IMAGES])
    outputs = _predict(served, put_split(test, dataset.mean, dataset.std))
    both = Predictions(
        np.concatenate([calibration.logits, outputs.logits]),
        np.concatenate([calibration.labels, outputs.labels]),
        None if outputs.gate is None else np.concatenate([calibration.gate, outputs.gate]),
    )
    source = (
        f"all {len(calibration.labels)} images of calibration and the first "
        f"{len(outputs.logits)} of test"
    )
    return Reference(
        [*_batches(dataset.calibration.images), *_batches(test.images)],
        source,
        _evaluate(both, served),
        run_accepted,
        from_run,
    )


def _random_reference(folder: pathlib.Path, served: ExportedNetwork) -> Reference:
    dataset = workdir.read_metadata(folder)["dataset"]
    shape = (CHECKED_IMAGES, *dataset["image_shape"])
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (np.asarray(dataset[name], np.float32) for name in ("mean", "std"))
    examples = put_split(data.Split(images, np.zeros(len(images), np.int32)), mean, std)
    outputs = _evaluate(_predict(served, examples), served)
    source = f"{len(images)} images of random pixels"
    return Reference([images], source, outputs, np.zeros(0, bool), None)


def _predict(served: ExportedNetwork, examples: Examples) -> Predictions:
    return gate_features.predict(
        served.restored, served.fitted, examples, batch_size=CHECKED_IMAGES, views=served.views
    )


def _batches(images: Any) -> list[Any]:
    return [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]


def evidence(
    metadata: Mapping[str, Any], results: Mapping[str, Any], served: ExportedNetwork
) -> promises.Evidence:
    """Returns what the promises of the exported model are computed from.

    Args:
        metadata: of the workdir.
        results: content of its `results.json`.
        served: the network with its operating point, which may have another score than the run.
    """
    return promises.evidence_of(
        {**results, "gate": served.gate},
        served.outputs,
        class_names=metadata["dataset"]["class_names"],
        # The config of a teacher has no such group; its results have that of its student.
        settings=metadata["config"].get("selective") or results.get("selective", {}),
        extras=served.extras,
        point=served.point,
        delta=served.delta,
    )


def serving_function(served: ExportedNetwork, dataset: Mapping[str, Any]) -> formats.Function:
    """Returns the function uint8 [n, h, w, c] -> the fields of `formats.Outputs`.

    The logits are averaged over the views inside the function.

    Args:
        served: the network with its operating point.
        dataset: of `data.dataset_metadata`.
    """
    # On the host, because an exported file must not contain the placement on devices.
    variables = jax.device_get(served.restored.variables)
    model, variables = teacher_network.fold(served.restored.model, variables)
    mean, std = (jnp.asarray(dataset[name], jnp.float32) for name in ("mean", "std"))
    fitted = served.fitted and served.fitted.as_float32()
    served_model: Any = WithFeatures(model) if fitted else model
    network_of_images = forward(served_model, variables, tuple(dataset["image_shape"]))

    def logits_of_view(images: jax.Array) -> jax.Array:
        return network_of_images(normalize(images, mean, std))

    def function(images: jax.Array) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision(network.PRECISION):
            outputs = average_logits(logits_of_view, images, served.views)
            if fitted is None:
                return _outputs(outputs, None, served)
            size = fitted.center.size
            gate_scores = outliers.mahalanobis(outputs[:, -size:], fitted)
        return _outputs(outputs[:, :-size], gate_scores, served)

    return function


def _outputs(
    logits: jax.Array, gate_scores: jax.Array | None, served: ExportedNetwork
) -> tuple[jax.Array, ...]:
    """Returns the fields of `formats.Outputs`; a score reads logits with an abstention column."""
    scored = logits
    if not served.abstains:
        scored = jnp.pad(logits, [(0, 0), (0, 1)], constant_values=-jnp.inf)
    confidence = served.point.confidence(scored)
    label = selective.predict(scored, abstention=True).astype(jnp.int32)
    accepted, gate = served.point.accepts(confidence, label), served.point.gate
    if gate is None:
        return logits, label, confidence, accepted
    passes = gate.passes(scored, gate_scores)
    return (
        *(logits, label, confidence, accepted & passes),
        *(gate.scores(scored, gate_scores), ~passes),
    )


def _evaluate(outputs: Predictions, served: ExportedNetwork) -> formats.Outputs:
    scores = None if outputs.gate is None else jnp.asarray(outputs.gate)
    compute = jax.jit(functools.partial(_outputs, served=served))
    return formats.Outputs(*jax.device_get(compute(jnp.asarray(outputs.logits), scores)))
