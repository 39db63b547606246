"""Functions exported as StableHLO and as ONNX, compared with the originals."""

import dataclasses
import logging
import sys
import types

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import jax2onnx
import numpy as np
import pytest

import kdjax
from kdjax import models, selective
from kdjax.export import formats

SHAPE = (8, 9, 3)
# Networks with the blocks of resnet14, and more of them.
DEEPER = ("resnet20", "resnet32", "resnet44", "resnet56")
WEIGHTS = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def reference(images):
    """Returns logits in float64: the mean colour times a weight matrix."""
    return (images / 255.0).mean(axis=(1, 2)) @ WEIGHTS.astype(np.float64)


def function(score="margin", threshold=0.3):
    """Returns the same function in JAX, with a confidence score and a threshold."""
    confidence_of = selective.scores_with_pnorm(3.0)[score]

    def apply(images):
        logits = jnp.mean(images.astype(jnp.float32) / 255, axis=(1, 2)) @ WEIGHTS
        confidence = confidence_of(logits)
        label = jnp.argmax(logits[:, :-1], axis=-1).astype(jnp.int32)
        return logits, label, confidence, confidence >= threshold

    return apply


def images_of(n, shape=SHAPE):
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture(params=formats.FORMATS)
def export_format(request):
    return formats.FORMATS[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("score", selective.scores_with_pnorm(3.0))
def test_every_score_is_exported_as_onnx(score):
    check_outputs(formats.FORMATS["model.onnx"], score)


def test_outputs_of_stablehlo_are_those_of_the_function():
    check_outputs(formats.FORMATS[formats.STABLEHLO], "margin")


@pytest.mark.slow
def test_every_score_is_exported_as_stablehlo():
    scores = selective.scores_with_pnorm(3.0)
    functions = {score: function(score) for score in scores}

    def confidences(images):
        return {score: apply(images)[2] for score, apply in functions.items()}

    content = formats.to_stablehlo(confidences, SHAPE)
    images = images_of(7)
    exported = jax.export.deserialize(bytearray(content)).call(images)
    for score, numpy_score in selective.numpy_scores(3.0).items():
        expected = numpy_score(reference(images))
        np.testing.assert_allclose(exported.pop(score), expected, atol=1e-5, err_msg=score)
    assert not exported


def check_outputs(export_format, score):
    """Compares the outputs of a file with a score with those in float64."""
    images = images_of(7)
    outputs = export_format.run(export_format.write(function(score), SHAPE))(images)
    logits = reference(images)
    confidence = selective.numpy_scores(3.0)[score](logits)
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-6)
    np.testing.assert_array_equal(outputs.label, logits[:, :-1].argmax(axis=1))
    np.testing.assert_allclose(outputs.confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(outputs.accepted, outputs.confidence >= np.float32(0.3))
    *values, gate_score, outlier = outputs
    assert [value.dtype for value in values] == [np.float32, np.int32, np.float32, np.bool_]
    assert gate_score is None and outlier is None  # there is no gate


@pytest.mark.slow
def test_exported_function_takes_any_number_of_images(export_format):
    run = export_format.run(export_format.write(function(), SHAPE))
    for n in (1, 2, 11):
        np.testing.assert_allclose(run(images_of(n)).logits, reference(images_of(n)), atol=1e-6)


@pytest.mark.slow
def test_pooling_that_jax2onnx_does_not_take_is_explained():
    def pool(images):
        return nn.avg_pool(images.astype("float32"), (2, 2), (2, 2))

    with pytest.raises(TypeError) as raised:
        formats.to_onnx(pool, (4, 4, 1))
    hint = formats.conversion_hint(raised.value)
    assert hint == "; give AvgPool its arguments by name, such as window_shape=(2, 2)"
    assert formats.conversion_hint(TypeError("unsupported")) == ""


@pytest.mark.parametrize("used", [False, True])
def test_parts_of_jax2onnx_for_equinox_are_not_imported_unless_it_is_used(monkeypatch, used):
    part = "jax2onnx.plugins.equinox"
    if used:
        monkeypatch.setitem(sys.modules, "equinox", types.ModuleType("equinox"))

    def convert(*_, **__):
        raise RuntimeError("hidden" if sys.modules.get(part, "not hidden") is None else "visible")

    monkeypatch.setattr(jax2onnx, "to_onnx", convert)
    with pytest.raises(RuntimeError, match="visible" if used else "hidden"):
        formats.to_onnx(function(), SHAPE)
    assert sys.modules.get(part, "not hidden") is not None


def test_infinite_threshold_accepts_nothing(export_format):
    run = export_format.run(export_format.write(function(threshold=np.inf), SHAPE))
    assert not run(images_of(4)).accepted.any()


def network(name):
    """Returns a network with folded batch norm and the same network without folding."""
    model = models.create(name, 4, width=2)
    rng = np.random.default_rng(1)

    def random_value(path, leaf):
        positive = path[-1].key in ("var", "scale")
        return rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)

    images = jnp.zeros((1, *SHAPE))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    variables = jax.tree.map_with_path(lambda *leaf: random_value(*leaf).astype(np.float32), shapes)
    folded, inference = models.fold_batch_norm(model, variables)
    unfolded = jax.jit(lambda x: model.apply(variables, x.astype(jnp.float32) / 255, False))
    return lambda x: folded.apply(inference, x.astype(jnp.float32) / 255, False), unfolded


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in DEEPER])
def test_every_folded_network_runs_in_onnx_runtime(name):
    folded, unfolded = network(name)

    def served(images):
        logits = folded(images)
        return logits, jnp.argmax(logits, -1).astype(jnp.int32), logits[:, 0], logits[:, 0] > 0

    images = images_of(3)
    expected = np.asarray(unfolded(images))
    outputs = formats.run_onnx(formats.to_onnx(served, SHAPE))(images).logits
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_stablehlo_is_exported_for_all_platforms():
    exported = jax.export.deserialize(bytearray(formats.to_stablehlo(function(), SHAPE)))
    assert exported.platforms == formats.PLATFORMS == ("cpu", "cuda", "tpu")


def test_files_contain_no_folder_of_the_machine(export_format):
    content = export_format.write(function(), SHAPE)
    for folder in (kdjax.__file__, jax.__file__, __file__):
        assert folder.rpartition("/")[0].encode() not in content


def test_writing_restores_the_state_of_the_process_and_prints_nothing(export_format, capfd):
    def state():
        config = jax.config.jax_hlo_source_file_canonicalization_regex
        return config, logging.root.manager.disable, nn.Conv.__call__, jnp.argmax

    before = state()
    export_format.write(function(), SHAPE)
    assert capfd.readouterr() == ("", "")
    assert state() == before


def test_unreadable_module_raises_and_prints_nothing(capfd):
    exported = jax.export.deserialize(bytearray(formats.to_stablehlo(function(), SHAPE)))
    later = dataclasses.replace(exported, mlir_module_serialized=b"ML\xefR of a later version")
    with pytest.raises(RuntimeError):
        formats.run_stablehlo(bytes(later.serialize()))
    assert capfd.readouterr() == ("", "")
