"""Sources of the original files: manual folder, download, damaged files, no network."""

import functools
import gzip
import hashlib
import http.server
import pathlib
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from support import stand_ins

from kdjax import data, errors
from kdjax.data.tfds import builders, parse, sources

# The stand-ins have few images of each class.
pytestmark = pytest.mark.filterwarnings("ignore:.* has no training image:RuntimeWarning")
NAMES = tuple(stand_ins.ORIGINALS)


def manual(root: pathlib.Path) -> pathlib.Path:
    return root / "downloads" / "manual"


def assert_holds(loaded: data.Dataset, pairs: stand_ins.Pairs, train: tuple[str, ...]) -> None:
    """Asserts that a data set has the images of `pairs`, with `train` as its train splits."""
    expected = stand_ins.examples(*(pairs[part] for part in train))
    assert stand_ins.examples(loaded.train, loaded.dev, loaded.calibration) == expected
    assert stand_ins.examples(loaded.test) == stand_ins.examples(pairs["test"])


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, pathlib.Path]]:
    """A local web server: its URL and the folder that it serves."""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_files_in_the_manual_folder_are_prepared(
    name: str, originals: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    pairs, files = originals(name)
    stand_ins.write_files(manual(tmp_path), files)
    loaded = data.load(name, data_dir=tmp_path)
    assert_holds(loaded, pairs, train=("train",))
    stock = tfds.builder(name, data_dir=tmp_path)
    assert stock.is_prepared()
    assert (loaded.name, loaded.version) == (name, str(stock.version))
    assert loaded.class_names == tuple(stock.info.features["label"].names)


@pytest.mark.slow
def test_tfds_reads_the_prepared_data_set_with_all_features(
    originals: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    _, files = originals("cifar100")
    stand_ins.write_files(manual(tmp_path), files)
    data.load("cifar100", data_dir=tmp_path)
    source = tfds.data_source("cifar100", split="test", data_dir=tmp_path)
    assert {record["coarse_label"] - record["label"] // 5 for record in source} == {0}
    assert sorted(record["id"] for record in source)[0] == b"test_00000"


def test_svhn_includes_extra_if_required(
    originals: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    pairs, files = originals("svhn_cropped")
    stand_ins.write_files(manual(tmp_path), files)
    loaded = data.load("svhn_cropped", data_dir=tmp_path, train_split="train+extra")
    assert_holds(loaded, pairs, train=("train", "extra"))


def test_svhn_prepared_without_extra_raises_with_the_remedy(
    originals: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    _, files = originals("svhn_cropped")
    del files["extra_32x32.mat"]
    stand_ins.write_files(manual(tmp_path), files)
    data.load("svhn_cropped", data_dir=tmp_path)
    with pytest.raises(errors.InputError, match=r"remove .*svhn_cropped/3\.1\.0"):
        data.load("svhn_cropped", data_dir=tmp_path, train_split="train+extra")


@pytest.mark.parametrize("name", NAMES)
def test_file_with_another_checksum_raises(
    name: str, originals: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    _, files = originals(name)
    changed, content = next(iter(files.items()))
    stand_ins.write_files(manual(tmp_path), files | {changed: content + b"!"})
    with pytest.raises(errors.InputError) as raised:
        data.load(name, data_dir=tmp_path)
    for part in (str(manual(tmp_path) / changed), *map(sha256, (content, content + b"!"))):
        assert part in str(raised.value)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_recompressed_gzip_is_verified_by_its_content(
    originals: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, files = originals("fashion_mnist")
    contents = {name: gzip.decompress(file) for name, file in files.items()}
    known = {sha256(file): sha256(contents[name]) for name, file in files.items()}
    monkeypatch.setattr(sources, "CONTENT_SHA256", known)
    repacked = {name: gzip.compress(content, 1, mtime=7) for name, content in contents.items()}
    stand_ins.write_files(sources.DEBIAN, repacked)
    assert_holds(data.load("fashion_mnist", data_dir=tmp_path), pairs, train=("train",))


# The bytes must not be in the name of the test: gzip writes the time and the operating system.
@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"cut short")[:-3]], ids=["not gzip", "truncated"]
)
def test_invalid_gzip_file_raises(content: bytes, tmp_path: pathlib.Path) -> None:
    original = next(iter(sources.CONTENT_SHA256))
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(errors.InputError, match=r"file\.gz is not a valid gzip file"):
        sources.verify(
            tmp_path / "file.gz", tfds.core.download.checksums.UrlInfo(1, original, "file.gz")
        )


@pytest.mark.skipif(not sources.DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debian_files_are_the_originals(tmp_path: pathlib.Path) -> None:
    infos = builders.url_infos("fashion_mnist", ("train", "test"))
    paths = sources.local_files("fashion_mnist", infos, tmp_path)
    assert len(paths) == 4
    for url, path in paths.items():
        assert path.parent == sources.DEBIAN
        sources.verify(path, infos[url])
    labels = parse.idx((sources.DEBIAN / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert np.bincount(labels).tolist() == [1000] * 10


def test_missing_files_are_downloaded_and_kept(
    originals: Callable[..., Any], server: tuple[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    base_url, folder = server
    pairs, files = originals("svhn_cropped", base_url)
    stand_ins.write_files(manual(tmp_path), {"test_32x32.mat": files.pop("test_32x32.mat")})
    stand_ins.write_files(folder, files)
    assert_holds(data.load("svhn_cropped", data_dir=tmp_path), pairs, train=("train",))
    infos = builders.url_infos("svhn_cropped", ("train", "test", "extra"))
    assert {
        infos[url].filename for url in sources.local_files("svhn_cropped", infos, tmp_path)
    } == {
        "train_32x32.mat",
        "test_32x32.mat",
    }


@pytest.mark.parametrize("served", [None, b"another file"])
def test_failed_download_raises_with_the_files_to_place(
    served: bytes | None,
    originals: Callable[..., Any],
    server: tuple[str, pathlib.Path],
    tmp_path: pathlib.Path,
) -> None:
    base_url, folder = server
    _, files = originals("cifar10", base_url)
    if served is not None:
        stand_ins.write_files(folder, dict.fromkeys(files, served))
    with pytest.raises(errors.InputError, match=f"{base_url}cifar-10-binary.tar.gz") as raised:
        data.load("cifar10", data_dir=tmp_path)
    assert str(manual(tmp_path)) in str(raised.value)


@pytest.mark.parametrize("name", [*NAMES, "kmnist"])
def test_without_network_raises_with_the_files_within_ten_seconds(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "no-debian-package-here")
    stock = tfds.builder_cls(name)
    closed = {f"http://127.0.0.1:9/{i.filename}": i for i in stock.url_infos.values()}
    monkeypatch.setattr(stock, "url_infos", closed)
    start = time.monotonic()
    with pytest.raises(errors.InputError, match="cannot reach") as raised:
        data.load(name, data_dir=tmp_path)
    assert time.monotonic() - start < 10
    message = str(raised.value)
    assert str(manual(tmp_path)) in message
    for url, info in closed.items():
        if info.filename != "extra_32x32.mat":
            assert {url, info.filename, info.checksum} <= set(message.split())
    assert ("apt-get install dataset-fashion-mnist" in message) == (name == "fashion_mnist")


def test_unresponsive_host_is_given_up_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def silent(url: str, timeout: float) -> types.SimpleNamespace:
        end.wait(30)
        return types.SimpleNamespace(status_code=200)

    monkeypatch.setattr(requests, "head", silent)
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.2)
    start = time.monotonic()
    hosts = sources.unreachable(["http://a.example/x", "http://a.example/y", "http://b.example/z"])
    assert time.monotonic() - start < 5
    assert hosts == {"a.example", "b.example"}
    end.set()


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (403, True), (503, False)])
def test_server_error_counts_as_unreachable(
    status: int, reachable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = types.SimpleNamespace(status_code=status)
    monkeypatch.setattr(requests, "head", lambda url, timeout: response)
    assert (sources.unreachable(["https://host.example/file"]) == set()) == reachable
