"""The function that is taken away, and whether a file of it does what the network does."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, formats, models, selective, stage, step, workdir
from kdjax.data.augment import normalize
from kdjax.report import guarantees, predictions, results

TOLERANCE = 1e-4  # of a file's logits against the network's
CHECKED = 256  # images that they are compared on
# Accelerators would otherwise round the factors of products to ten bits or fewer.
PRECISION = "highest"


class Rule(NamedTuple):
    """What is accepted, and what is promised of it.

    Attributes:
        confidence: logits [n, m+1] -> [n], traceable.
        threshold: the least confidence that is accepted, infinite where none is certified.
        guarantee: what it comes from, see `report.guarantees`.
    """

    confidence: Callable[[jax.Array], jax.Array]
    threshold: float
    guarantee: dict[str, Any]


class Sample(NamedTuple):
    """Images with what the network makes of them on this machine.

    Attributes:
        images: uint8 [n, h, w, c].
        source: of the images, in words.
        outputs: of the network, in float32.
        from_run: largest difference of these logits from the run's own; None for random pixels.
    """

    images: np.ndarray
    source: str
    outputs: formats.Outputs
    from_run: float | None


def rule(
    folder: pathlib.Path, found: Mapping[str, Any], risk: float | None, delta: float | None
) -> Rule:
    """Returns the rule of a workdir, certified anew from its predictions.

    Args:
        folder: the workdir.
        found: its results.
        risk: of the certificate, in place of the run's.
        delta: of the certificate, in place of the run's.

    Raises:
        InputError: if there are no predictions, or for a risk or delta out of range.
    """
    name, pnorm, asked = found["best_score"], found["pnorm"], found["guarantee"]
    score = results.scores_with(pnorm)[name]
    calibration, test = (
        (score(split.logits), results.correct(*split))
        for split in (_predictions(folder, "calibration"), _predictions(folder, "test"))
    )
    guarantee = guarantees.guarantee(
        calibration,
        test,
        risk=asked["risk"] if risk is None else risk,
        delta=asked["delta"] if delta is None else delta,
    )
    threshold = guarantees.operating(guarantee)["threshold"]
    return Rule(
        results.traceable_scores(pnorm)[name],
        math.inf if threshold is None else threshold,
        guarantee,
    )


def _predictions(folder: pathlib.Path, split: str) -> predictions.Predictions:
    return predictions.load(folder / "predictions" / f"{split}.npz")


def network(folder: pathlib.Path) -> stage.Frozen:
    """Returns a workdir's network, computing in float32 whatever it was trained in.

    bfloat16 rounds differently wherever it is compiled; float32 stands in the middle.
    """
    trained = stage.restore(folder)
    return trained._replace(model=trained.model.clone(dtype=jnp.float32))


def serve(trained: stage.Frozen, dataset: Mapping[str, Any], accept: Rule) -> formats.Function:
    """Returns the function uint8 [n, h, w, c] -> the fields of `formats.Outputs`.

    Args:
        trained: the student.
        dataset: as `workdir.describe` gives it.
        accept: the rule.
    """
    # From the host: a file is for one device, whatever the run was on.
    model, variables = models.fold(trained.model, jax.device_get(trained.variables))
    mean, std = (jnp.asarray(dataset[name], jnp.float32) for name in ("mean", "std"))

    def function(images: jax.Array) -> tuple[jax.Array, ...]:
        with jax.default_matmul_precision(PRECISION):
            logits: Any = model.apply(variables, normalize(images, mean, std), train=False)
        return _decided(logits, accept)

    return function


def _decided(logits: jax.Array, accept: Rule) -> tuple[jax.Array, ...]:
    confidence = accept.confidence(logits)
    label = selective.predict(logits).astype(jnp.int32)
    return logits, label, confidence, confidence >= accept.threshold


def sample(
    folder: pathlib.Path, trained: stage.Frozen, accept: Rule, data_dir: str | None
) -> Sample:
    """Returns the first images of the run's test split or, without the data, random pixels.

    Raises:
        InputError: if the data set has changed.
    """
    identity = workdir.read(folder)
    about, fields = identity["dataset"], identity["config"]["data"]
    at_hand = data.prepared(fields["name"], data_dir or fields["dir"] or None)
    if at_hand:
        images = stage.data_of(folder, data_dir).test.images[:CHECKED]
    else:
        shape = (CHECKED, *about["image_shape"])
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (np.asarray(about[name], np.float32) for name in ("mean", "std"))
    split = data.Split(images, np.zeros(len(images), np.int32))
    with jax.default_matmul_precision(PRECISION):
        logits = step.predict(
            trained.model, trained.variables, step.to_device(split, mean, std), batch_size=CHECKED
        )
    outputs = formats.Outputs(*jax.device_get(_decided(jnp.asarray(logits), accept)))
    if not at_hand:
        return Sample(images, f"{len(images)} images of random pixels", outputs, None)
    own = _predictions(folder, "test").logits[: len(images)]
    source = f"the first {len(images)} images of test"
    return Sample(images, source, outputs, largest_difference(logits, own))


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns max |one - other|."""
    return float(np.abs(one - other).max())


def check(name: str, content: bytes, expected: Sample) -> dict[str, Any]:
    """Runs a file and returns how its outputs differ from the network's.

    Returns:
        `largest_difference` of a logit, and `different_decisions`: images that one accepts and
        the other does not, because their confidence is at the threshold but for rounding.

    Raises:
        FloatingPointError: if a logit differs by more than `TOLERANCE`.
    """
    found = formats.FORMATS[name].run(content)(expected.images)
    difference = largest_difference(found.logits, expected.outputs.logits)
    if not difference <= TOLERANCE:
        raise FloatingPointError(
            f"{name} gives logits that differ by {difference:.2g} from the network's, which is "
            f"more than {TOLERANCE:g}: nothing was written"
        )
    return {
        "largest_difference": difference,
        "different_decisions": int(np.sum(found.accepted != expected.outputs.accepted)),
    }
