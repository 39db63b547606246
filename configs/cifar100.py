"""CIFAR-100: 60,000 colour images, 32x32, 100 classes.

python -m kdjax.main --config=configs/cifar100.py [--config.setting=depth]

The full size needs an accelerator; no full training has been run yet. `--config.smoke` tests it on
a laptop. Smaller networks were trained on a CPU, three seeds of nine methods
(docs/results/comparison.md).
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "cifar100"
    config.data.name = "cifar100"

    config.teacher.epochs = 200
    # Values that others use (docs/concepts/abstention.md), not chosen on dev.
    config.objective.payoff = 4.6
    config.objective.pretrain_epochs = 200
    config.student.epochs = 300
    config.student.schedule = "step"
    return config
