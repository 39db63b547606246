"""The cache of own images: what is known of the files, and their decoded arrays."""

import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Mapping, Sequence

import PIL

from kdjax.data import cache, fit
from kdjax.data.own import contents, decoding
from kdjax.data.own.listing import Header, Listing
from kdjax.data.own.names import Location, check_outside
from kdjax.paths import user_path
from kdjax.runtime import atomic_io


def cache_folder(data_dir: str | os.PathLike[str] | None, location: Location) -> pathlib.Path:
    """Returns the folder of the cache: in `data_dir`, by default in the user's cache folder.

    Raises:
        InputError: if `data_dir` is the folder of the images, or in it: nothing is written there.
    """
    if not data_dir:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdjax" / "images"
    root = user_path(data_dir).absolute()
    check_outside(root, "data_dir", location)
    return root / "kdjax_arrays" / "own"


class Store:
    """The cache of the images of one listing.

    It holds for each file its hash, as long as size and times of the file are the same, and for
    each set of contents the decoded arrays.
    """

    def __init__(self, folder: pathlib.Path, listing: Listing) -> None:
        self._folder, self._listing = folder, listing
        name = hashlib.sha256(listing.title.encode("utf-8", "surrogateescape")).hexdigest()
        self._path = folder / f"{name[:16]}.json"
        self._index = contents.read_index(self._path)

    def headers(self) -> list[Header]:
        """Returns the header of each image; only new and changed files are read."""
        before = self._index["headers"]
        headers = contents.headers(self._listing.images, len(self._listing.examples), self._index)
        if self._index["headers"] != before:
            self._write_index()
        return headers

    def conversion(
        self, headers: Sequence[Header], digests: dict[str, int], image_size: int, resize: str
    ) -> decoding.Conversion:
        """Returns `decoding.choose_conversion`, as it was for these contents.

        Args:
            headers: of the images.
            digests: digest -> number in the listing.
            image_size: height and width; 0: that of the images.
            resize: `pad` or `crop`.
        """
        use = json.dumps([image_size, resize])
        fingerprint = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        known, values = self._index["conversions"].get(use, ("", []))
        if known == fingerprint:
            shape, *rest = values
            return decoding.Conversion(tuple(shape), *rest)
        conversion = decoding.choose_conversion(self._listing, headers, image_size, resize)
        self._index["conversions"][use] = fingerprint, conversion
        self._write_index()
        return conversion

    def decoded(
        self,
        digests: dict[str, int],
        conversion: decoding.Conversion,
        *,
        images: bool,
        part: str = "",
    ) -> cache.Arrays:
        """Returns the arrays of `decoding.decode`, from the cache if the contents are cached.

        Args:
            digests: digest -> number in the listing.
            conversion: of the images.
            images: whether to return the images.
            part: name of these images if they are not all of the listing.
        """
        use = json.dumps([conversion.shape, conversion.resize, part])
        fingerprint = _fingerprint(digests, conversion)
        names = [name for name in decoding.NAMES if images or name != "images"]
        arrays = cache.load(
            self._folder / fingerprint,
            cache.Source(decoding.FORMAT, fingerprint),
            names,
            lambda: decoding.decode(self._listing, digests, conversion, images=images),
        )
        self._replace(use, fingerprint)
        return arrays

    def _replace(self, use: str, fingerprint: str) -> None:
        """Notes the arrays in use, and removes those that they replace."""
        arrays = self._index["arrays"]
        if (old := arrays.get(use)) == fingerprint:
            return
        arrays[use] = fingerprint
        self._write_index()
        if old and not self._is_used(old):
            shutil.rmtree(self._folder / old, ignore_errors=True)

    def _is_used(self, fingerprint: str) -> bool:
        """Returns whether arrays belong to any listing: equal images have the same arrays."""
        indices = (path.read_text(errors="replace") for path in self._folder.glob("*.json"))
        return any(fingerprint in index for index in indices)

    def _write_index(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Without indentation, which is ten times slower.
            atomic_io.write_file(self._path, json.dumps(self._index))
        except OSError as error:
            warnings.warn(f"cannot cache in {self._folder}: {error}", RuntimeWarning, 4)


def _fingerprint(digests: Mapping[str, int], conversion: decoding.Conversion) -> str:
    """Returns a hash of the contents, their conversion, and the version of the decoder."""
    settings = [conversion.shape, conversion.resize, decoding.FORMAT, fit.FORMAT, PIL.__version__]
    text = "\n".join([json.dumps(settings), *digests])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
