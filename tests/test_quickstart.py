"""configs/quickstart.py: students of equal budget, on data of which some images are unreadable."""

import pytest
from ml_collections import ConfigDict
from support.commands import ROOT
from support.runs import get_config

import kdjax.config
from kdjax import models
from kdjax.config_fields import differences
from kdjax.models.cost import cost
from kdjax.runs import students


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    return kdjax.config.resolve(get_config(ROOT / "configs" / "quickstart.py"))


def test_the_students_differ_only_in_their_method(config: ConfigDict) -> None:
    abstaining, plain = students.expand(config).values()
    assert differences(abstaining.to_dict(), plain.to_dict()) == [
        "objective.method: 'ka_gambler_sum' -> 'ce'"
    ]


@pytest.mark.slow
def test_the_teacher_is_larger_than_its_students_on_these_images(config: ConfigDict) -> None:
    outputs = {"teacher": 10, "student": 11}
    sizes = {
        stage: cost(models.create(config[stage].model, number), (8, 8, 1))
        for stage, number in outputs.items()
    }
    assert sizes["teacher"].parameters > sizes["student"].parameters
    assert sizes["teacher"].multiply_adds > sizes["student"].multiply_adds
