"""The default networks and methods of the configs suit each other."""

import math

import jax
import jax.numpy as jnp
import pytest
from support.commands import ROOT
from support.runs import get_config, tiny

from kdjax import models, pipeline
from kdjax.config import PAIRS


class Stopped(Exception):
    """Raised in place of the training."""


def parameters_and_flops(name: str) -> tuple[int, float]:
    model = models.create(name, 11)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False)
    )
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    analysis = forward.lower(variables, images).cost_analysis()
    return count, float(analysis["flops"])


@pytest.mark.parametrize(("setting", "size"), PAIRS)
def test_teacher_has_more_parameters_and_operations_than_its_student(setting, size) -> None:
    teacher, student = map(parameters_and_flops, PAIRS[setting, size])
    assert teacher[0] > student[0] and teacher[1] > student[1]


def test_soft_gambler_with_a_soft_teacher_warns_that_it_may_abstain_everywhere(
    data_dir, tmp_path, monkeypatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr(pipeline, "train_stage", stop)
    config = tiny(data_dir, **{"objective.method": "ka_gambler_soft"})
    message = "temperature 4.0 .*payoff = 0.45.*temperature=1"
    with pytest.raises(Stopped), pytest.warns(RuntimeWarning, match=message):
        pipeline.train(config, tmp_path)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.py")), ids=lambda path: path.stem)
def test_no_shipped_config_has_the_setting_that_warns(path) -> None:
    config = get_config(path)
    students = config.students or ({},)
    for changes in students:
        method = changes.get("objective.method", config.objective.method)
        temperature = changes.get("objective.temperature", config.objective.temperature)
        assert method != "ka_gambler_soft" or temperature == 1
