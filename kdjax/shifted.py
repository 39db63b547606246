"""A trained network on inputs that are no longer those it was trained for: does it abstain?"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from jax.tree_util import Partial

from kdjax import data, selective, stage, step, workdir
from kdjax.data.fit import fit
from kdjax.data.shift import SEVERITIES, SHIFTS
from kdjax.errors import InputError, unknown
from kdjax.report import guarantees, results

OTHER = "ood:"  # before the name of a data set that the network was not trained on
SEED = 0  # of the noise, and of the side that an image is turned to
USUAL = "90"  # percent of dev that is accepted where no threshold is certified

Sample = tuple[np.ndarray, np.ndarray]  # confidence [n], and whether each prediction is right


class Rule(NamedTuple):
    """What a run accepts: all that has at least this confidence.

    Attributes:
        score: its name.
        confidence: logits [n, m+1] -> [n].
        threshold: fixed before anything shifted.
        source: of the threshold.
    """

    score: str
    confidence: results.Score
    threshold: float
    source: str


def shifted(
    folder: pathlib.Path, names: Sequence[str], *, data_dir: str | None = None
) -> dict[str, Any]:
    """Judges a run's best checkpoint on shifted copies of its test split, and on other data.

    Args:
        folder: the workdir of a run or of a teacher, with its `results.json`.
        names: of `kdjax.data.shift.SHIFTS`, and `ood:NAME` for the test split of a TFDS set.
        data_dir: of TFDS, if the data have moved since.

    Returns:
        What it writes to `shift.json`: `score`, `threshold`, `threshold_from` and `examples`;
        `clean`: the `coverage` at that threshold, the `error` among the accepted (None if there
        are none), the `accuracy` over all, the mean `confidence`; `shifts`: by name, the same at
        each `severity`; `ood`: by name, the `examples`, the share `accepted`, the `auroc` of
        telling the run's test split from them by confidence, and how they were `fitted`.

    Raises:
        InputError: for an unknown name, or a workdir that has not been evaluated.
    """
    _check(names)
    identity, rule = workdir.read(folder), _rule(folder)
    others = {
        name.removeprefix(OTHER): _other(name.removeprefix(OTHER), identity, data_dir)
        for name in names
        if name not in SHIFTS
    }
    dataset = stage.data_of(folder, data_dir)
    sample, test = _sampler(folder, rule), stage.examples_of(dataset, "test")
    clean = sample(test)

    def at(name: str, severity: int) -> Sample:
        return sample(test, Partial(SHIFTS[name], severity=severity, seed=SEED))

    def on(split: data.Split) -> Sample:
        return sample(step.to_device(split, dataset.mean, dataset.std))

    found = {
        "score": rule.score,
        "threshold": rule.threshold,
        "threshold_from": rule.source,
        "examples": len(dataset.test.labels),
        "clean": _accepted(rule, clean),
        "shifts": {
            name: [{"severity": s, **_accepted(rule, at(name, s))} for s in SEVERITIES]
            for name in names
            if name in SHIFTS
        },
        "ood": {
            name: {**_told_apart(rule, clean, on(split)), "fitted": words}
            for name, (split, words) in others.items()
        },
    }
    workdir.write_json(folder / "shift.json", found)
    return found


def _check(names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"no shift named: {', '.join(SHIFTS)} or {OTHER}NAME of a data set")
    for name in names:
        if name == OTHER:
            raise InputError(f"shift {name!r} names no data set: for example {OTHER}fashion_mnist")
        if name not in SHIFTS and not name.startswith(OTHER):
            raise unknown("shift", name, [*SHIFTS, f"{OTHER}NAME"])


def _rule(folder: pathlib.Path) -> Rule:
    """The score and threshold that `results.json` stands by."""
    found = workdir.read_results(folder)
    score = found["best_score"]
    confidence = results.scores_with(found["pnorm"])[score]
    certified = guarantees.operating(found["guarantee"])["threshold"]
    if certified is None:
        usual = found["scores"][score]["thresholds"][USUAL]["threshold"]
        return Rule(score, confidence, usual, f"dev, {USUAL} % coverage")
    return Rule(score, confidence, certified, "certificate")


def _other(name: str, identity: Mapping[str, Any], data_dir: str | None) -> tuple[data.Split, str]:
    """The test split of another data set, as images of the run's shape, and how they became so."""
    fields = identity["config"]["data"]
    loaded = data.load(name, data_dir=data_dir or fields["dir"] or None)
    split = (data.head(loaded, fields["limit"]) if fields["limit"] else loaded).test
    shape = tuple(identity["dataset"]["image_shape"])
    if split.images.shape[1:] == shape:
        return split, ""
    # Pillow has grey images without an axis of channels.
    pictures = split.images[..., 0] if split.images.shape[-1] == 1 else split.images
    images, words = zip(*(fit(PIL.Image.fromarray(one), shape) for one in pictures), strict=True)
    return data.Split(np.stack(images), split.labels), "; ".join(sorted(set(words)))


def _sampler(folder: pathlib.Path, rule: Rule) -> Callable[..., Sample]:
    """Returns `(examples, change) -> sample`: what the workdir's network makes of them."""
    identity, trained = workdir.read(folder), stage.restore(folder)
    batch_size = identity["config"]["eval_batch_size"]

    def sample(examples: step.Examples, change: Partial = step.AS_THEY_ARE) -> Sample:
        logits = step.predict(
            trained.model, trained.variables, examples, batch_size=batch_size, change=change
        )
        if identity["stage"] == stage.TEACHER:
            logits = results.with_abstention(logits)
        return rule.confidence(logits), results.correct(logits, np.asarray(examples.labels))

    return sample


def _accepted(rule: Rule, sample: Sample) -> dict[str, float | None]:
    confidence, right = sample
    coverage, error = selective.accept_at(confidence, right, rule.threshold)
    return {
        "coverage": coverage,
        "error": error if coverage else None,
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
    }


def _told_apart(rule: Rule, clean: Sample, other: Sample) -> dict[str, float]:
    """How much of other data is accepted, and how well confidence tells the run's own from them."""
    inside, outside = clean[0], other[0]
    own = np.repeat([True, False], [len(inside), len(outside)])
    return {
        "examples": len(outside),
        "accepted": selective.accept_at(*other, rule.threshold)[0],
        "auroc": selective.auroc(np.concatenate([inside, outside]), own),
    }
