"""Fashion-MNIST: 70,000 grey pictures of clothes, 28x28, 10 classes.

python -m kdjax.main --config=configs/fashion_mnist.py --config.size=laptop

The full-size networks (without --config.size=laptop) were not trained to the end: no accelerator
was at hand.
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "fashion_mnist"
    config.data.name = "fashion_mnist"
    config.data.pad = 2

    config.teacher.epochs = 30
    config.student.epochs = 40

    # No payoff is known for this set: we start from CIFAR-10's.
    config.objective.payoff = 2.2
    config.objective.pretrain_epochs = 10
    return config
