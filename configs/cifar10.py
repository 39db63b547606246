"""CIFAR-10: 60,000 colour images, 32x32, 10 classes.

python -m kdjax.main --config=configs/cifar10.py [--config.setting=depth] [--config.size=laptop]

The full size needs an accelerator; no full training has been run yet. `--config.size=laptop` trains
the networks of the recipe `fast` (kdjax.recipes) on a CPU. `--config.smoke` tests either.

With the networks of the recipe, nine methods were compared, three seeds each
(docs/results/comparison.md). On dev, `kd` and `ka_gambler_sum`, the default, had the lowest mean
AURC, and no difference between the two is shown. Out-of-fold teachers gave a higher mean AURC on
dev for five of six methods, mirror views a lower one for all. The defaults method, folds and views
are therefore kept.
"""

from ml_collections import ConfigDict

from kdjax import recipes
from kdjax.config import base


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the config.

    Args:
        size: paper or laptop, of `--config.size`.
    """
    config = base()
    config.name = "cifar10"
    config.data.name = "cifar10"
    config.size = size
    # Payoff and pre-training epochs as in the public code of arXiv 1907.00208.
    config.objective.payoff = 2.2
    if size == "laptop":
        return recipes.apply(config, "fast")

    config.teacher.epochs = 200
    config.objective.pretrain_epochs = 100
    config.student.epochs = 300
    config.student.schedule = "step"
    return config
