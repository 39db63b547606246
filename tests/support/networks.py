"""A linear network with its spec, data and order: small enough to follow a step by hand."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.data import Dataset, Split, batches
from kdjax.data.augment import Augmentation, epoch_order
from kdjax.data.records import Records
from kdjax.objectives import METHODS, Hyperparameters
from kdjax.training import multi_student, step
from kdjax.training.spec import TrainSpec
from kdjax.training.teacher import OnlineTeacher, TeacherSource, teacher_logits

CLASSES, SHAPE, COUNT, BATCH = 3, (8, 8, 1), 20, 4
MEAN, STD = np.float32(0.5), np.float32(0.3)
HYPER = Hyperparameters(payoff=2.0, distill_weight=0.5, temperature=3.0)
# Specs with the same objects share their programs.
OBJECTIVE = functools.partial(METHODS["ka_gambler_sum"], hyper=HYPER)
OPTIMIZER = optax.sgd(0.1, momentum=0.9, nesterov=True)
LEARNING_RATE = optax.constant_schedule(0.1)
BATCHES = batches.BatchSpec(
    batch_size=BATCH,
    steps_per_epoch=COUNT // BATCH,
    order_seed=7,
    augmentation=Augmentation(pad=0, flip=False),
)


class Linear(nn.Module):
    """A linear classifier of flattened images."""

    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(self.outputs)(images.reshape(len(images), -1))


def random_split(seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
    return Split(images, rng.integers(0, CLASSES, COUNT, dtype=np.int32))


def random_dataset() -> Dataset:
    """Returns a data set whose splits are all `random_split()`."""
    splits = dict.fromkeys(("train", "dev", "calibration", "test"), random_split())
    return Dataset(
        **splits,
        name="toy",
        version="1.0.0",
        class_names=("a", "b", "c"),
        mean=np.full(1, MEAN),
        std=np.full(1, STD),
    )


def device_examples() -> batches.Examples:
    """The images of `random_split` on the devices."""
    return batches.put_split(random_split(), np.full(1, MEAN), np.full(1, STD))


def streamed_examples() -> batches.Examples:
    """The same images, read as if they were on disk."""
    images = random_split().images
    records = Records(lambda numbers: images[numbers], np.arange(COUNT), SHAPE)
    return device_examples()._replace(images=records)


def flat_inputs(split: Split) -> np.ndarray:
    """The normalized images, flattened, in float64."""
    return (split.images.reshape(len(split.images), -1) / 255 - float(MEAN)) / float(STD)


def order(epoch: int = 0) -> jax.Array:
    return epoch_order(COUNT, seed=BATCHES.order_seed, epoch=epoch)


def linear_spec(**changes: Any) -> TrainSpec:
    """The spec of a linear student; fields of its batches may be changed like its own."""

    def take(kind: Any) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(kind)} & changes.keys()
        return {name: changes.pop(name) for name in names}

    augmentation = dataclasses.replace(BATCHES.augmentation, **take(Augmentation))
    changed = dataclasses.replace(BATCHES, augmentation=augmentation, **take(batches.BatchSpec))
    spec = TrainSpec(
        stage="student",
        model=Linear(CLASSES + 1),
        num_classes=CLASSES,
        seed=7,
        objective=OBJECTIVE,
        pretrain_epochs=0,
        teacher=Linear(CLASSES),
        optimizer=OPTIMIZER,
        learning_rate=LEARNING_RATE,
        average_weight=None,
        bn_batches=100,
        batches=changed,
        epochs=3,
        eval_batch_size=8,
        best_metric="accuracy",
        log_every=50,
    )
    return dataclasses.replace(spec, **changes)


def teacher_variables() -> dict[str, Any]:
    return Linear(CLASSES).init(jax.random.key(5), jnp.zeros((1, *SHAPE)), train=False)


def train_step(
    spec: TrainSpec, state: step.TrainState, source: batches.BatchSource, teacher: TeacherSource
) -> tuple[step.TrainState, step.Metrics]:
    """One step, from the source of its batch and of its teacher."""

    @jax.jit  # one program compiles faster than each of its operations
    def run(state: step.TrainState) -> tuple[step.TrainState, step.Metrics]:
        batch = batches.make_batch(spec.batches, source, state.step)
        return step.train_step(spec, state, batch, teacher_logits(spec.teacher, teacher, batch))

    return run(state)


def single_program(spec: TrainSpec) -> Callable[..., tuple[step.TrainState, step.Metrics]]:
    """`make_program` of one network: `(state, source, teacher variables, count)`."""
    program = multi_student.make_program([spec])

    def run(state: Any, source: Any, variables: Any, count: int) -> tuple[Any, Any]:
        teacher = None if variables is None else OnlineTeacher(variables)
        (state,), (metrics,) = program((state,), source, teacher, count)
        return state, metrics

    return run
