"""digits_methods: all methods on the digits of scikit-learn, as students of one teacher.

python -m kdjax.main --config=configs/digits_methods.py

Takes minutes on 2 CPU cores. Results of an earlier version:
experiments/results/digits_methods.md.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from kdjax.objectives import METHODS

# Loaded by its path, so that this file works from every working directory.
DIGITS = pathlib.Path(__file__).with_name("digits.py")


def get_config() -> ConfigDict:
    """Returns the config."""
    config = runpy.run_path(str(DIGITS))["get_config"]()
    config.name = "digits_methods"
    # ka_gambler_soft needs temperature 1: a softer teacher makes it abstain on every image. The
    # gradients of dkd and rld are too large to begin with.
    warmup = {"objective.distill_warmup_epochs": 10.0}
    changes = {
        "ka_gambler_soft": {"objective.temperature": 1.0},
        "dkd": warmup,
        "rld": warmup,
        # As many epochs as there are here move the targets as far as 300 do with 0.99.
        "self_adaptive": {"objective.target_momentum": 0.9},
    }
    config.students = tuple(
        {"objective.method": method, **changes.get(method, {})} for method in METHODS
    )
    return config
