"""own_images: your own images, a few hundred or more, in class folders, a CSV or an npz file.

python -m kdjax.main --config=configs/own_images.py --config.data.name=folder:PATH

Small networks on images of 32 x 32 pixels. With more images, a larger `data.image_size`
and a lower `selective.risk`: docs/how-to/own-data.md.
"""

from ml_collections import ConfigDict

from kdjax.config import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base()
    config.name = "own_images"
    config.size = "laptop"

    config.data.name = "folder:images"  # or csv:FILE, npz:FILE
    config.data.image_size = 32
    config.data.calibration_fraction = 0.25
    config.data.pad = 2

    config.teacher.epochs = 40
    config.student.epochs = 60
    for stage in (config.teacher, config.student):
        stage.batch_size = 32
        stage.learning_rate = 0.05
        stage.warmup_epochs = 5.0

    config.objective.pretrain_epochs = 20
    config.selective.risk = 0.1  # from 30 calibration images without an error; 2 % needs 149
    return config
