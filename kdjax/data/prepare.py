"""Preparing a set through its TFDS builder: the project's own, or the stock one."""

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data import builders, decode, sources


def prepare(name: str, root: pathlib.Path, wanted: Sequence[str]) -> pathlib.Path:
    """Prepares a set in array_record form, unless that is done, and returns its directory.

    Args:
        name: `name` or `name/config`.
        root: the TFDS directory.
        wanted: the splits that are asked for.

    Raises:
        InputError: if the name is unknown, the set is not image classification, its files are
            missing or wrong, or TFDS needs a package that is not installed.
    """
    known = {*tfds.list_builders(with_community_datasets=False), *_prepared_names(root)}
    if name.split("/")[0] not in known:
        own = ", ".join(sorted(["digits", *builders.FILES]))
        raise errors.InputError(
            f"unknown data set {name!r}: did you mean {errors.nearest(name.lower(), known)!r}?"
            f" Valid: {own}, any other image-classification set of TFDS"
        )
    builder = builders.create(name, root, wanted)
    decode.image_and_label(builder.info)  # before anything is downloaded
    if not _is_whole(builder):
        _run(builder, root)
    return pathlib.Path(builder.data_dir)


def _prepared_names(root: pathlib.Path) -> set[str]:
    found = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    return {path.relative_to(root).parts[0] for path in found}


def _run(builder: Any, root: pathlib.Path) -> None:
    if builder.name not in builders.FILES:  # those look for their files themselves
        _require_network(builder, root)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # TFDS announces itself on stdout, where a command's own result belongs.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as failure:
        reason = str(failure).splitlines()[-1]  # such as: No module named 'tensorflow'
        raise errors.InputError(
            f"TFDS's builder of {builder.name} needs a package: {reason}. Install it, or prepare"
            f" the set elsewhere as array_record and copy it to {builder.data_dir}"
        ) from failure
    except (OSError, AssertionError, *sources.FAILURES) as failure:
        # Unless another process has prepared the same set meanwhile.
        if not _is_whole(builder):
            raise errors.InputError(f"cannot prepare {builder.name}: {failure}") from failure
    if not _is_whole(builder):
        raise errors.InputError(f"{builder.data_dir} holds no whole set: remove it")


def _is_whole(builder: Any) -> bool:
    return pathlib.Path(builder.data_dir, "dataset_info.json").exists()


def _require_network(builder: Any, root: pathlib.Path) -> None:
    """Fails at once where TFDS would retry for minutes; not if some files are at hand already."""
    infos = builder.url_infos or {}
    if not sources.at_hand(builder.name, infos, root):
        sources.require_network(builder.name, infos, root)
