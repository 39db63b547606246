"""What export, training scripts and collection share: the exported split, and the files of logits.

Needs numpy only, so that the training scripts run in environments without kdjax.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

TRAIN, EVALUATED = "train", ("dev", "calibration", "test")
COSINE, HALVING = "cosine", "halving"
# The public code of arXiv 1907.00208 halves the learning rate every 25 of 300 epochs, 11 times.
PUBLIC_EPOCHS, PUBLIC_DROPS = 300, 12


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the networks of a job are trained; fields of its config.

    Attributes:
        job: fields of `plan.Job`.
        command: with which the split was exported.
        model: the student, such as `alexnet`.
        mean: of the training images for each channel, in units of full brightness (255).
        std: in the same units.
        pad: pixels of zeros on each side before the random crop.
        flip: whether images are mirrored.
        epochs: of the students.
        batch_size: images in a batch.
        learning_rate: after the warm-up.
        momentum: of SGD.
        nesterov: whether momentum is Nesterov's.
        weight_decay: coefficient of the L2 penalty of the kernels.
        warmup_epochs: of the linear warm-up.
        pretrain_epochs: epochs of cross-entropy before the gambler loss.
        payoff: o of the gambler loss.
        distill_weight: lambda of the distillation term.
        temperature: of the distillation term.
        dtype: in which the student computes, float32 or bfloat16.
        eval_every: epochs between evaluations on dev; the best checkpoint on dev is kept.
        seed: of the weights, the order and the augmentation.
    """

    job: dict[str, Any]
    command: str
    model: str
    mean: list[float]
    std: list[float]
    pad: int
    flip: bool
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: float
    pretrain_epochs: int
    payoff: float
    distill_weight: float
    temperature: float
    dtype: str
    eval_every: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Exported:
    """A split that `export_split` wrote.

    Attributes:
        settings: of the job.
        images: uint8 [n, h, w, c] by name of the split.
        labels: int64 [n] by name of the split.
        classes: m.
        views: int32 [V, n], the number of the augmentation of each training image in each view,
            see `offsets`; V = 0 without fixed views.
        teacher: float32 [V, n, m], class logits of the teacher for the views; None without one.
    """

    settings: Settings
    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    classes: int
    views: np.ndarray
    teacher: np.ndarray | None


def load(path: pathlib.Path) -> Exported:
    """Reads the file of `export_split`; exits with one line if it cannot be read."""
    splits = (TRAIN, *EVALUATED)
    try:
        with np.load(path) as arrays:
            return Exported(
                Settings(**json.loads(str(arrays["settings"]))),
                {name: arrays[f"{name}_images"] for name in splits},
                {name: arrays[f"{name}_labels"] for name in splits},
                int(arrays["classes"]),
                arrays["views"],
                arrays.get("teacher"),
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        sys.exit(f"error: {str(path)!r} is no file of export_split: {error}")


def offsets(
    numbers: np.ndarray, pad: int, *, flip: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns top, left and whether an image is mirrored, for the numbers of augmentations.

    Args:
        numbers: int [...], from 0 to (2 pad + 1)^2 (1 + flip) - 1, numbered as in
            `kdjax.data.augment`.
        pad: pixels of zeros on each side; top and left are from 0 to 2 pad.
        flip: whether images are mirrored.
    """
    crop, mirrored = np.divmod(numbers, 1 + flip)
    top, left = np.divmod(crop, 2 * pad + 1)
    return top, left, mirrored.astype(bool)


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Returns the generator of the order and augmentation of an epoch."""
    return np.random.default_rng([seed, epoch])


def epoch_numbers(split: Exported, epoch: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the number of the augmentation of each training image in an epoch, int32 [n].

    That of view `epoch mod V` if the split has fixed views, else a random one.
    """
    if len(split.views):
        return split.views[epoch % len(split.views)]
    count = (2 * split.settings.pad + 1) ** 2 * (1 + split.settings.flip)
    return rng.integers(count, size=len(split.labels[TRAIN]), dtype=np.int32)


def steps_per_epoch(split: Exported, settings: Settings) -> int:
    """Returns the number of whole batches; exits with one line if there is none."""
    examples = len(split.labels[TRAIN])
    if settings.batch_size > examples:
        sys.exit(f"error: batch_size {settings.batch_size}: there are {examples} training images")
    return examples // settings.batch_size


def learning_rates(settings: Settings, schedule: str, steps_per_epoch: int) -> np.ndarray:
    """Returns the learning rate of each step, float64 [epochs * steps_per_epoch].

    Args:
        settings: of the job.
        schedule: `COSINE`: linear warm-up and cosine decay to 0, that of the job; `HALVING`: the
            public code's, halved after each twelfth of the epochs, without warm-up.
        steps_per_epoch: batches in an epoch.
    """
    total = settings.epochs * steps_per_epoch
    step = np.arange(total)
    if schedule == HALVING:
        epoch = step // steps_per_epoch
        drops = [round(part * settings.epochs / PUBLIC_DROPS) for part in range(1, PUBLIC_DROPS)]
        return settings.learning_rate * 0.5 ** np.searchsorted(drops, epoch, side="right")
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    decay = 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(total - warmup, 1)))
    ramp = (step + 1) / max(warmup, 1)
    return settings.learning_rate * np.where(step < warmup, ramp, decay)


class BestOnDev:
    """Keeps the weights with the highest accuracy on dev, as the job does for its students."""

    def __init__(
        self, labels: np.ndarray, every: int, epochs: int, pretrain_epochs: int = 0
    ) -> None:
        """Creates the rule.

        Args:
            labels: of dev, [n].
            every: epochs between evaluations; 0: after the last one only.
            epochs: of the training.
            pretrain_epochs: whose weights are not kept, unless these are all epochs.
        """
        self._labels, self._every, self._epochs = labels, every, epochs
        self._first = pretrain_epochs if pretrain_epochs < epochs else 0
        self.accuracy, self.epoch, self.weights = -1.0, 0, None

    def ends(self) -> Iterator[int]:
        """Yields the numbers of finished epochs after which the network is evaluated."""
        every = self._every or self._epochs
        yield from (end for end in range(every, self._epochs, every) if end > self._first)
        yield self._epochs

    def update(self, epoch: int, logits: np.ndarray, weights: Callable[[], Any]) -> None:
        """Keeps the weights if no earlier ones are better; prints the accuracy.

        Args:
            epoch: finished epochs.
            logits: class logits on dev, [n, m].
            weights: returns a copy of the weights.
        """
        check_finite(epoch, logits)
        accuracy = float(np.mean(logits.argmax(1) == self._labels))
        print(f"epoch {epoch}/{self._epochs}  dev_accuracy {accuracy:.4f}", flush=True)
        if accuracy >= self.accuracy:  # of equal ones the last, as kdjax
            self.accuracy, self.epoch, self.weights = accuracy, epoch, weights()


def end_epoch(epoch: int, epochs: int, loss: float) -> None:
    """Prints the loss; exits with one line if training has diverged.

    Args:
        epoch: finished epochs.
        epochs: of the training.
        loss: of the epoch, or of its last batch.
    """
    check_finite(epoch, loss)
    print(f"epoch {epoch}/{epochs}  loss {loss:.4f}", flush=True)


def check_finite(epoch: int, values: np.ndarray | float) -> None:
    """Exits with one line if training has diverged."""
    if not np.isfinite(values).all():
        sys.exit(f"error: epoch {epoch}: training diverged; lower --learning-rate")


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a training script; options that are left out are those of the job.

    Args:
        script: name of its module in this package.
        description: of the script.
    """
    result = argparse.ArgumentParser(
        prog=f"python -m experiments.paper.baselines.{script}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--split", type=pathlib.Path, required=True, help="file of export_split")
    result.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    result.add_argument("--name", help="of the method in the tables")
    result.add_argument("--epochs", type=int)
    result.add_argument("--batch-size", type=int)
    result.add_argument("--learning-rate", type=float)
    result.add_argument("--dtype", choices=("float32", "bfloat16"))
    result.add_argument("--eval-every", type=int, help="epochs; 0: keep the last weights")
    result.add_argument("--seed", type=int)
    return result


def change(settings: Settings, **values: Any) -> Settings:
    """Returns the settings with the values that are not None; exits with one line if invalid."""
    given = {name: value for name, value in values.items() if value is not None}
    result = dataclasses.replace(settings, **given)
    for name in ("epochs", "batch_size", "learning_rate"):
        if getattr(result, name) <= 0:
            sys.exit(f"error: {name} is {getattr(result, name)}: must be above 0")
    if result.eval_every < 0:
        sys.exit(f"error: eval_every is {result.eval_every}: must be 0 or more")
    return result


def write(
    out: pathlib.Path,
    file_name: str,
    split: Exported,
    logits: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    packages: Sequence[str],
) -> None:
    """Writes the logits of a baseline as npz, and how it was trained as JSON.

    Args:
        out: the folder.
        file_name: of both files, without suffix.
        split: on which it was trained.
        logits: [n, outputs] for each of `EVALUATED`, and of the mirrored images for the same name
            with `_mirrored`.
        record: further entries of the JSON file; `seconds`, `started` and `name` among them.
        packages: whose versions are recorded.
    """
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"{name}_labels": split.labels[name] for name in EVALUATED}
    arrays |= logits
    partial = out / f".{file_name}.npz"
    np.savez(partial, **arrays)
    partial.replace(out / f"{file_name}.npz")
    contents = {
        **record,
        "job": split.settings.job,
        "classes": split.classes,
        "export": split.settings.command,
        "versions": {name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
    }
    partial = out / f".{file_name}.json"
    partial.write_text(json.dumps(contents, indent=2) + "\n")
    partial.replace(out / f"{file_name}.json")
    print(f"{out / file_name}.npz: {record['name']}, {record['seconds']:.1f} s")


def command(module: str, arguments: Sequence[str]) -> str:
    """Returns the command line of a script."""
    return f"python -m experiments.paper.baselines.{module} {shlex.join(arguments)}"


class Stopwatch:
    """Seconds since its creation."""

    def __init__(self) -> None:
        """Starts it."""
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Returns the seconds since the start."""
        return round(time.perf_counter() - self._start, 3)
