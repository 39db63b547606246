"""quickstart: noisy digits, a student that learns to abstain beside one trained with cross-entropy.

python -m kdjax.main --config=configs/quickstart.py

The two students have the same network, images and number of steps. Takes about a minute on 2 CPU
cores. Errors with and without abstention over five seeds: experiments/results/quickstart_seeds.md.
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "quickstart"
    config.size = "laptop"

    config.data.name = "digits_noisy"
    config.data.calibration_fraction = 0.2
    config.data.pad = 1
    config.data.flip = False

    config.teacher.epochs = 15
    config.student.epochs = 30
    for stage in (config.teacher, config.student):
        stage.batch_size = 64
        stage.learning_rate = 0.05

    config.objective.pretrain_epochs = 8
    config.selective.risk = 0.05
    config.students = ({"objective.method": "ka_gambler_sum"}, {"objective.method": "ce"})
    return config
