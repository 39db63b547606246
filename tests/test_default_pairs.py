"""The default methods of the configs suit each other; for the networks see models/test_cost."""

import pytest
from support.commands import ROOT
from support.runs import get_config, tiny

from kdjax import pipeline
from kdjax.runs import teacher_stage


class Stopped(Exception):
    """Raised in place of the training."""


def test_soft_gambler_with_a_soft_teacher_warns_that_it_may_abstain_everywhere(
    data_dir, tmp_path, monkeypatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr(teacher_stage, "train_stage", stop)
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
