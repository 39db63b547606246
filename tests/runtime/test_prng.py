"""Random numbers are the same under all settings of JAX, and the same as those of 0.1.0."""

import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from support.runs import tiny

import kdjax.config
from kdjax import pipeline
from kdjax.data import augment, shift
from kdjax.training import step
from kdjax.training.spec import train_spec

AUGMENTATION = augment.Augmentation(4, True)
DATASET = {"class_names": ["a", "b", "c"], "train_examples": 1000}


def numbers(value: Any) -> list[float]:
    return np.ravel(np.asarray(value)).tolist()


def draw() -> dict[str, Any]:
    """Returns orders, augmentations, initial weights and shifts, drawn eagerly and under jit."""
    drawn: dict[str, Any] = {}
    for seed, epoch in ((0, 0), (4294967295, 1)):
        order = functools.partial(augment.epoch_order, 12, seed=seed)
        drawn[f"order {seed}"] = numbers(order(epoch=epoch))
        drawn[f"jitted order {seed}"] = numbers(jax.jit(lambda e, o=order: o(epoch=e))(epoch))
        sample = functools.partial(
            augment.sample_augmentation, seed=seed, augmentation=AUGMENTATION
        )
        indices = jnp.arange(6, dtype=jnp.int32) * 7
        drawn[f"augmentation {seed}"] = numbers(sample(indices, epoch=epoch))
        jitted = jax.jit(lambda i, e, s=sample: s(i, epoch=e))
        drawn[f"jitted augmentation {seed}"] = numbers(jitted(indices, epoch))
    drawn["weights"] = weights()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for name in sorted(shift.SHIFTS):
        shifted = jax.jit(shift.SHIFTS[name])(images, jnp.arange(6), severity=3, seed=5)
        drawn[name] = int(shifted.astype(jnp.int32).sum())
    return drawn


def weights() -> str:
    """Returns a digest of the initial weights of the default student."""
    config = kdjax.config.base()
    config.size = "laptop"
    spec = train_spec(kdjax.config.resolve(config), "student", DATASET)
    leaves = jax.tree.leaves(step.init_state(spec, (8, 8, 3)).variables)
    return hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in leaves)).hexdigest()[:16]


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    return draw()


@pytest.mark.slow
def test_numbers_are_those_of_version_0_1_0(default) -> None:
    last = 4294967295
    for kind in ("", "jitted "):
        assert default[f"{kind}augmentation 0"] == [72, 68, 32, 51, 18, 80]
        assert default[f"{kind}augmentation {last}"] == [118, 11, 13, 150, 113, 86]
    assert default["weights"] == "9e5417cc92967d50"
    sums = {"blur": 143822, "contrast": 143817, "noise": 144081, "rotation": 143577}
    assert {name: default[name] for name in sums} == sums


# JAX reads `JAX_ENABLE_X64` and the like into these settings.
SETTINGS = {
    "jax_enable_x64": True,
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
}


@pytest.mark.slow
def test_settings_of_jax_do_not_change_the_numbers(default) -> None:
    """All at once: each of them that had an effect would give other numbers."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    assert all(before[name] != value for name, value in SETTINGS.items())
    try:
        for name, value in SETTINGS.items():
            jax.config.update(name, value)
        drawn = draw()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert drawn == default


def use_cache(values: dict[str, Any]) -> None:
    """Changes the folder of the compilation cache, which JAX reads only once."""
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_run_with_another_seed_finds_every_program_in_the_compilation_cache(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Of those that are stored: JAX counts a miss when it stores a program."""
    missed: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_misses":
            missed.append(event)

    counts = []
    changed = {
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_compilation_cache_dir": str(tmp_path / "programs"),
    }
    before = {name: jax.config.values[name] for name in changed}
    use_cache(changed)
    jax.monitoring.register_event_listener(listen)
    try:
        for seed in (5, 4294967295):
            changes = {"seed": seed, "teacher.views": 2, "student.average": "ema", "students": ()}
            pipeline.train(tiny(data_dir, **changes), tmp_path / str(seed))
            counts.append(len(missed))
            missed.clear()
    finally:
        jax.monitoring.unregister_event_listener(listen)
        use_cache(before)
    assert counts[0] > 0
    assert counts[1] == 0
