"""SVHN: digits of house numbers, colour, 32x32, 10 classes, 73,257 training and 26,032 test images.

python -m kdjax.main --config=configs/svhn.py [--config.setting=depth]

Needs an accelerator; `--config.smoke` tests it on a laptop. No full training has been run yet.
With the 531,131 extra images: --config.data.train_split=train+extra
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "svhn"
    config.data.name = "svhn_cropped"
    config.data.flip = False  # mirrored digits are not digits

    config.teacher.epochs = 200
    # Values that others use (docs/concepts/abstention.md), not chosen on dev.
    config.objective.payoff = 2.6
    config.objective.pretrain_epochs = 50
    config.student.epochs = 300
    config.student.schedule = "step"
    return config
