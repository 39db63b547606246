"""Fashion-MNIST: 70,000 grey images of clothes, 28x28, 10 classes.

python -m kdjax.main --config=configs/fashion_mnist.py [--config.setting=depth]

The full-size networks need an accelerator; no full training has been run yet. With
--config.size=laptop --config.teacher.epochs=12 --config.student.epochs=10
--config.objective.pretrain_epochs=3 it took 22 minutes on 2 CPU cores: test accuracy 92.7 %;
selective risk 7.3 % at full coverage, at 90 % coverage 4.2 % with the score reservation and 3.2 %
with softmax_response_log_odds (one seed, experiments/results/fashion_mnist_laptop.md).
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

    # No payoff has been published for this data set: we use that of CIFAR-10.
    config.objective.payoff = 2.2
    config.objective.pretrain_epochs = 10
    return config
