"""Prints the losses and the first gradient of a small network on this process's devices, as JSON.

The network has batch normalization; the images are augmented, and sharded over the devices. The
loss compares the examples of a batch, and reads and updates a target for each training image.
Run by test_sharding.py, once for each number of devices.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

# As a script, this file imports its neighbours from its own folder.
from networks import linear_spec, single_program

from kdjax.data import Split, batches
from kdjax.data.batches import DeviceSplit
from kdjax.models.alexnet import AlexNet
from kdjax.objectives import METHODS, Hyperparameters
from kdjax.runtime import sharding
from kdjax.training import step

N, BATCH, CLASSES = 60, 24, 5
# Two convolutions, each with batch normalization: little to compile.
NETWORK = AlexNet(CLASSES + 1, layers=((1, 3, 1, True), (2, 3, 1, False)), width=4, normalize=True)


def objective(
    logits: jax.Array, _: None, labels: jax.Array, *, running: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gambler loss, correlations with the labels as a teacher, and self-adaptive training."""
    teacher, hyper = 3 * jax.nn.one_hot(labels, CLASSES), Hyperparameters(target_momentum=0.7)
    loss = METHODS["gambler"](logits, None, labels, hyper=hyper)[0]
    loss += METHODS["dist"](logits, teacher, labels, hyper=hyper)[1]["distillation"] / 30
    return loss + METHODS["self_adaptive"](logits, None, labels, hyper=hyper, running=running)[
        0
    ], {}


def run(dtype: jnp.dtype, steps: int, rate: float) -> tuple[list[float], list[float]]:
    """Returns the loss of each step and the first gradient."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=N).astype(np.int32)
    images = (rng.integers(0, 100, (N, 8, 8, 1)) + 30 * labels[:, None, None, None]).astype(
        np.uint8
    )
    mean, std = np.full(1, 0.4, np.float32), np.full(1, 0.2, np.float32)
    examples = batches.put_split(Split(images, labels), mean, std, "sharded")
    spec = linear_spec(
        model=NETWORK.clone(dtype=dtype),
        objective=objective,
        target_momentum=0.7,
        train_examples=N,
        optimizer=optax.sgd(rate),
        teacher=None,
        num_classes=CLASSES,
        steps_per_epoch=N // BATCH,
        **{"batch_size": BATCH, "pad": 1, "flip": True},
    )
    state = step.init_state(spec, (8, 8, 1))
    state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
    order = sharding.replicate(rng.permutation(N).astype(np.int32))
    before = jax.device_get(state.variables["params"])
    train, losses, gradient = single_program(spec), [], None
    for number in range(steps):
        state, metrics = train(state, DeviceSplit(examples, order), None, 1)
        losses.append(float(metrics["loss"][0]))
        if number == 0:
            after = jax.device_get(state.variables["params"])
            leaves = jax.tree.map(lambda old, new: (old - new) / rate, before, after)
            gradient = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(leaves)]).tolist()
    return losses, gradient


def main() -> None:
    losses, gradient = run(jnp.float32, 1, rate=1.0)  # with rate 1 the difference is the gradient
    results = {"devices": jax.device_count(), "float32": {"loss": losses, "gradient": gradient}}
    jax.config.update("jax_enable_x64", True)
    losses, _ = run(jnp.float64, 50, rate=0.3)
    print(json.dumps({**results, "float64": {"losses": losses}}))


if __name__ == "__main__":
    main()
