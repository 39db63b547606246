"""SVHN: digits cut out of photos of house numbers, 32x32, 73,257 for training and 26,032 for test.

python -m kdjax.main --config=configs/svhn.py [--config.setting=depth]

Wants an accelerator; `--config.smoke` tries it on a laptop. Not trained to the end yet.
The 531,131 extra images: --config.data.train_split=train+extra
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "svhn"
    config.data.name = "svhn_cropped"
    config.data.flip = False  # a mirrored 2 is no digit

    config.teacher.epochs = 200
    # Payoff and pre-training of arXiv 1907.00208's public code.
    config.objective.payoff = 2.6
    config.objective.pretrain_epochs = 50
    config.student.epochs = 300
    config.student.schedule = "step"
    return config
