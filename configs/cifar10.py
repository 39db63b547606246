"""CIFAR-10: 60,000 colour pictures, 32x32, 10 classes.

python -m kdjax.main --config=configs/cifar10.py [--config.setting=depth]

Wants an accelerator; `--config.smoke` tries it on a laptop. Not trained to the end yet.
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "cifar10"
    config.data.name = "cifar10"

    config.teacher.epochs = 200
    # Payoff and pre-training of arXiv 1907.00208's public code.
    config.objective.payoff = 2.2
    config.objective.pretrain_epochs = 100
    config.student.epochs = 300
    config.student.schedule = "step"
    return config
