"""A function as StableHLO and as ONNX gives what it gave before."""

import dataclasses
import logging

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import kdjax
from kdjax import formats, models
from kdjax.report import results

SHAPE = (8, 9, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def reference(images):
    """Logits in float64: the mean colour, weighted."""
    return (images / 255.0).mean(axis=(1, 2)) @ WEIGHTS.astype(np.float64)


def function(score="margin", threshold=0.3):
    """The same function of images in JAX, with a score."""
    confidence_of = results.traceable_scores(3.0)[score]

    def decide(images):
        logits = jnp.mean(images.astype(jnp.float32) / 255, axis=(1, 2)) @ WEIGHTS
        confidence = confidence_of(logits)
        label = jnp.argmax(logits[:, :-1], axis=-1).astype(jnp.int32)
        return logits, label, confidence, confidence >= threshold

    return decide


def images_of(n, shape=SHAPE):
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture(params=formats.FORMATS)
def form(request):
    return formats.FORMATS[request.param]


@pytest.mark.parametrize("score", results.traceable_scores(3.0))
def test_every_score_leaves_in_every_form(form, score):
    images = images_of(7)
    found = form.run(form.write(function(score), SHAPE))(images)
    logits = reference(images)
    confidence = results.scores_with(3.0)[score](logits)
    np.testing.assert_allclose(found.logits, logits, atol=1e-6)
    np.testing.assert_array_equal(found.label, logits[:, :-1].argmax(axis=1))
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(found.accepted, found.confidence >= np.float32(0.3))
    dtypes = [np.asarray(value).dtype for value in found]
    assert dtypes == [np.float32, np.int32, np.float32, np.bool_]


def test_any_number_of_images_may_be_given(form):
    run = form.run(form.write(function(), SHAPE))
    for n in (1, 2, 11):
        np.testing.assert_allclose(run(images_of(n)).logits, reference(images_of(n)), atol=1e-6)


def test_an_infinite_threshold_accepts_nothing(form):
    run = form.run(form.write(function(threshold=np.inf), SHAPE))
    assert not run(images_of(4)).accepted.any()


def network(name):
    """A folded network as after training, and its logits in normal form."""
    model = models.create(name, 4, width=2)
    rng = np.random.default_rng(1)

    def value(path, leaf):
        positive = path[-1].key in ("var", "scale")
        return rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)

    images = jnp.zeros((1, *SHAPE))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    variables = jax.tree.map_with_path(lambda *leaf: value(*leaf).astype(np.float32), shapes)
    folded, inference = models.fold(model, variables)
    plain = jax.jit(lambda x: model.apply(variables, x.astype(jnp.float32) / 255, False))
    return lambda x: folded.apply(inference, x.astype(jnp.float32) / 255, False), plain


@pytest.mark.parametrize("name", models.MODELS)
def test_every_folded_network_runs_under_onnx_runtime(name):
    folded, plain = network(name)

    def served(images):
        logits = folded(images)
        return logits, jnp.argmax(logits, -1).astype(jnp.int32), logits[:, 0], logits[:, 0] > 0

    images = images_of(3)
    expected = np.asarray(plain(images))
    found = formats.run_onnx(formats.to_onnx(served, SHAPE))(images).logits
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_stablehlo_is_for_the_platforms_it_names():
    exported = jax.export.deserialize(bytearray(formats.to_stablehlo(function(), SHAPE)))
    assert exported.platforms == formats.PLATFORMS == ("cpu", "cuda", "tpu")


def test_no_folder_of_the_machine_is_written_into_a_file(form):
    content = form.write(function(), SHAPE)
    for folder in (kdjax.__file__, jax.__file__, __file__):
        assert folder.rpartition("/")[0].encode() not in content


def test_writing_leaves_no_trace_in_the_process(form, capfd):
    def state():
        config = jax.config.jax_hlo_source_file_canonicalization_regex
        return config, logging.root.manager.disable, nn.Conv.__call__, jnp.argmax

    before = state()
    form.write(function(), SHAPE)
    assert capfd.readouterr() == ("", "")
    assert state() == before


def test_a_module_that_xla_cannot_read_raises_and_says_nothing_itself(capfd):
    exported = jax.export.deserialize(bytearray(formats.to_stablehlo(function(), SHAPE)))
    later = dataclasses.replace(exported, mlir_module_serialized=b"ML\xefR of a later version")
    with pytest.raises(RuntimeError):
        formats.run_stablehlo(bytes(later.serialize()))
    assert capfd.readouterr() == ("", "")
