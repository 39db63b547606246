"""Prepares data sets with the builders of kdjax or of TFDS."""

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data.tfds import builders, decode, sources


def prepare(name: str, root: pathlib.Path, required_splits: Sequence[str]) -> pathlib.Path:
    """Prepares a data set in array_record format if necessary and returns its directory.

    Args:
        name: `name` or `name/config`.
        root: the TFDS directory.
        required_splits: names of the splits to prepare.

    Raises:
        InputError: for an unknown name, a data set that is not image classification, missing or
            wrong files, or a package that TFDS needs and that is not installed.
    """
    known = {*tfds.list_builders(with_community_datasets=False), *_prepared_names(root)}
    if name.split("/")[0] not in known:
        documented = ", ".join(sorted(["digits", *builders.FILES]))
        raise errors.InputError(
            f"unknown data set {name!r}: did you mean {errors.nearest_name(name.lower(), known)!r}?"
            f" Valid: {documented}, any other image-classification data set of TFDS"
        )
    builder = builders.create(name, root, required_splits)
    decode.image_and_label(builder.info)  # raises before anything is downloaded
    if not _is_complete(builder):
        _download_and_prepare(builder, root)
    return pathlib.Path(builder.data_dir)


def _prepared_names(root: pathlib.Path) -> set[str]:
    paths = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    return {path.relative_to(root).parts[0] for path in paths}


def _download_and_prepare(builder: Any, root: pathlib.Path) -> None:
    if builder.name not in builders.FILES:  # the builders of kdjax check their files themselves
        _require_files_or_network(builder, root)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # TFDS prints messages to stdout, which is reserved for the results of a command.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as failure:
        reason = str(failure).splitlines()[-1]  # such as: No module named 'tensorflow'
        raise errors.InputError(
            f"the TFDS builder of {builder.name} needs a package: {reason}. Install it, or prepare"
            f" the data set elsewhere as array_record and copy it to {builder.data_dir}"
        ) from failure
    except (OSError, AssertionError, *sources.FAILURES) as failure:
        # The failure is ignored if another process has prepared the same data set meanwhile.
        if not _is_complete(builder):
            raise errors.InputError(f"cannot prepare {builder.name}: {failure}") from failure
    if not _is_complete(builder):
        raise errors.InputError(f"{builder.data_dir} is incomplete: remove it")


def _is_complete(builder: Any) -> bool:
    return pathlib.Path(builder.data_dir, "dataset_info.json").exists()


def _require_files_or_network(builder: Any, root: pathlib.Path) -> None:
    """Raises unless some files are present or their hosts respond: TFDS would retry for minutes."""
    infos = builder.url_infos or {}
    if not sources.local_files(builder.name, infos, root):
        sources.require_network(builder.name, infos, root)
