"""digits_methods: all methods on scikit-learn's digits, as students of one teacher, in one run.

python -m kdjax.main --config=configs/digits_methods.py

Minutes on 2 CPU cores. What to expect: experiments/results/digits_methods.md.
"""

from ml_collections import ConfigDict

from configs import digits
from kdjax.objectives import METHODS


def get_config() -> ConfigDict:
    """Returns the config."""
    config = digits.get_config()
    config.name = "digits_methods"
    config.students = tuple({"objective.method": method} for method in METHODS)
    return config
