"""Fashion-MNIST: 70,000 grey pictures of clothes, 28x28, 10 classes.

python -m kdjax.main --config=configs/fashion_mnist.py [--config.setting=depth]

The full-size networks want an accelerator and were not trained to the end yet. With
--config.size=laptop --config.teacher.epochs=12 --config.student.epochs=10
--config.objective.pretrain_epochs=3 it took 42 minutes on 2 CPU cores; expect 92.2 % on test, 7.8 %
error at full coverage, 4.6 % at 90 % by the reservation and 3.9 % by the softmax response (one
seed, experiments/results/fashion_mnist_laptop.md).
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
