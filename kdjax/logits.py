"""Lists the images of a run, for which your own teacher gives logits; checks a file of logits.

kdjax logits --config=cifar10 --write-index=index.npz [--images] [--splits=train,dev]
kdjax logits --config=cifar10 --check=logits.npz

The index is an .npz file with one row for each image: hashes, labels, split and indices, and with
--images the images themselves. Compute the logits in this order, with any library, and store them
together with the arrays of the index, as `logits` [n, m], or [views, n, m] for augmented images;
--config.teacher.logits=FILE then trains with them. `python -m kdjax.logits` is the same command.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from kdjax import cli
from kdjax.errors import InputError, unknown_name_error

if TYPE_CHECKING:
    from kdjax.data import Dataset

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the name of a config of the package, or the path of a Python file"
)
WRITE_INDEX = cli.define_path("write-index", "the .npz file to which the index is written")
CHECK = cli.define_path("check", "an .npz file of logits, to be checked for this config")
IMAGES = flags.DEFINE_boolean("images", False, "store the images in the index, as uint8")
SPLITS = flags.DEFINE_list("splits", None, "splits in the index [train,dev,calibration,test]")


def main() -> None:
    """Runs the command."""
    from kdjax import config as configs
    from kdjax.runs import restore

    if CONFIG.value is None:
        raise InputError("no config given: for example --config=cifar10; kdjax list configs")
    if (WRITE_INDEX.value is None) == (CHECK.value is None):
        raise InputError("give either --write-index=FILE or --check=FILE")
    if CHECK.value is not None and (SPLITS.value or IMAGES.value):
        raise InputError("--splits and --images are for --write-index, not for --check")
    config = configs.resolve(CONFIG.value)
    if CHECK.value is not None:
        config = _with_logits(config, CHECK.value)
    splits = _splits()
    dataset = restore.load_data(config)
    if CHECK.value is not None:
        print(_check(config, dataset))
    else:
        _write_index(pathlib.Path(WRITE_INDEX.value or ""), config, dataset, splits)


def _splits() -> list[str]:
    from kdjax.training.external.logits_file import SPLITS as ALL

    splits = SPLITS.value or list(ALL)
    for name in splits:
        if name not in ALL:
            raise unknown_name_error("split", name, ALL)
    return [name for name in ALL if name in splits]


def _with_logits(config: Any, path: str) -> Any:
    """Returns the config with a file of logits as its teacher."""
    from kdjax import config as configs
    from kdjax.config_checks import TEACHER_SOURCES

    changed = config.copy_and_resolve_references().unlock()
    for name in TEACHER_SOURCES:
        changed.teacher[name] = path if name == "logits" else ""
    return configs.resolve(changed)


def _check(config: Any, dataset: "Dataset") -> str:
    from kdjax.training.external import logits_teacher

    source, note = logits_teacher.describe_source(
        config.teacher, _batches(config, dataset), dataset
    )
    return f"{note}; splits with logits: {', '.join(source['splits'])}"


def _batches(config: Any, dataset: "Dataset") -> Any:
    """Returns how the batches of the students' training are formed."""
    from kdjax.training.spec import STUDENT, batch_spec

    return batch_spec(config, STUDENT, len(dataset.train.labels))


def _write_index(path: pathlib.Path, config: Any, dataset: "Dataset", splits: list[str]) -> None:
    from kdjax.runtime import atomic_io
    from kdjax.training.external import logits_file

    if path.suffix != ".npz":
        raise InputError(f"--write-index={str(path)!r}: the name must end in .npz")
    arrays = logits_file.index_arrays(dataset, splits, images=IMAGES.value)
    batches = _batches(config, dataset)
    if batches.views:
        arrays |= logits_file.view_arrays(dataset, batches, images=IMAGES.value)
    try:
        atomic_io.write_npz(path, arrays)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    counts = ", ".join(f"{len(getattr(dataset, name).labels):,} {name}" for name in splits)
    print(f"index of {len(arrays['hashes']):,} images in {path}: {counts}")
    print(_views(batches))


def _views(batches: Any) -> str:
    """Returns in words which views of a training image a file of logits may hold."""
    from kdjax.data.augment import num_augmentations

    augmentation = batches.augmentation
    count = num_augmentations(augmentation)
    if batches.views and count > 1:
        return (
            f"a training image has {batches.views} fixed views (teacher.views): store logits "
            f"[{batches.views}, n, m], of training images of view_images, which --images adds, and "
            "of other images in view 0; or [n, m] of the images as they are"
        )
    if count == 1:
        return "training images are not augmented: store logits [n, m]"
    if augmentation.pad == 0:
        return (
            "training images are mirrored at random: store logits [2, n, m], view 0 of the images "
            "and view 1 of the mirrored ones, images[:, :, ::-1]"
        )
    return (
        f"a training image has {count} augmentations: store logits [n, m] of the images as they "
        "are, or set --config.teacher.views=V and store [V, n, m] of fixed views, or set "
        "--config.data.pad=0 and store [2, n, m], view 1 of the mirrored images"
    )


if __name__ == "__main__":
    cli.run(main, needs=["train"])
