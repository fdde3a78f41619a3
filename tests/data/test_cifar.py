import hashlib
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data import CIFAR10, CIFAR100

# Python 3.12 warns that torchvision unpacks archives without naming a filter.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")

SMALL: dict[str, Any] = {
    "val_size": 10,
    "recalibration_size": 10,
    "range_estimation_size": 20,
}  # Any: goes to arguments of several types


class OldNumpyPickler(pickle.Pickler):
    """Writes dtypes as numpy did when the real files were made: with 0 and 1 for False and True."""

    def reducer_override(self, obj: object) -> Any:  # Any: whatever the pickle protocol allows
        if not isinstance(obj, np.dtype):
            return NotImplemented
        reduced: Any = obj.__reduce__()  # Any: a tuple numpy does not annotate
        make, (code, align, copy), state = reduced
        return make, (code, int(align), int(copy)), state


def pickled(content: dict[str, Any]) -> bytes:  # Any: arrays, lists and names
    stream = BytesIO()
    OldNumpyPickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def pixels(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


class StandIn:
    """A tiny archive in CIFAR's format on a local server; torchvision's class is told its address and checksums."""

    def __init__(self, source: Any, files: dict[str, bytes], folder: Path, address: str) -> None:
        # Any: torchvision ships no annotations
        self.source, self.files, self.archive = source, files, folder / source.filename
        self.address = address
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(f"{source.base_folder}/{name}")
                info.size = len(content)
                tar.addfile(info, BytesIO(content))

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def checksum(content: bytes) -> str:
            return hashlib.md5(content, usedforsecurity=False).hexdigest()

        def listed(names: list[list[str]]) -> list[list[str]]:
            return [[name, checksum(self.files[name])] for name, _ in names]

        meta = self.source.meta
        monkeypatch.setattr(self.source, "url", f"{self.address}/{self.archive.name}")
        monkeypatch.setattr(self.source, "tgz_md5", checksum(self.archive.read_bytes()))
        monkeypatch.setattr(self.source, "train_list", listed(self.source.train_list))
        monkeypatch.setattr(self.source, "test_list", listed(self.source.test_list))
        monkeypatch.setattr(self.source, "meta", {**meta, "md5": checksum(self.files[meta["filename"]])})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the address under which it is served, and the list of what was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # Any and the name: as the parent has them
            asked.append(self.path)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}", asked
    http.shutdown()
    thread.join()
    http.server_close()


def batch(seed: int, key: str, classes: int) -> bytes:
    return pickled({"data": pixels(20, seed), key: [(seed + i) % classes for i in range(20)]})


@pytest.fixture
def cifar10(server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> StandIn:
    files = {f"data_batch_{number}": batch(number, "labels", 10) for number in range(1, 6)}
    names = [f"class {number}" for number in range(10)]
    files |= {"test_batch": batch(0, "labels", 10), "batches.meta": pickled({"label_names": names})}
    stand_in = StandIn(datasets.CIFAR10, files, *server[:2])
    stand_in.patch(monkeypatch)
    return stand_in


@pytest.fixture
def cifar100(server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> StandIn:
    names = [f"class {number}" for number in range(100)]
    train = pickled({"data": pixels(100, 9), "fine_labels": list(range(100))})
    files = {"train": train, "test": batch(0, "fine_labels", 100), "meta": pickled({"fine_label_names": names})}
    stand_in = StandIn(datasets.CIFAR100, files, *server[:2])
    stand_in.patch(monkeypatch)
    return stand_in


def test_cifar10_is_downloaded_once_and_read_in_order(
    cifar10: StandIn, server: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    data = CIFAR10(root=tmp_path / "data", **SMALL)
    data.prepare_data()
    assert f"/{cifar10.archive.name}" in server[2]
    server[2].clear()
    data.prepare_data()
    data.setup()
    assert server[2] == []
    train = data.load("train")
    expected = np.concatenate([pixels(20, number) for number in range(1, 6)]).reshape(100, 3, 32, 32)
    assert train.x.dtype == torch.uint8
    assert np.array_equal(train.x.numpy(), expected)
    assert train.y.tolist() == [(number + i) % 10 for number in range(1, 6) for i in range(20)]
    assert np.array_equal(data.load("test").x.numpy(), pixels(20, 0).reshape(20, 3, 32, 32))
    assert data.classes == tuple(f"class {number}" for number in range(10))
    assert {name: role.size for name, role in data.roles.items()}["train"] == 80


def test_cifar100_has_the_hundred_fine_classes(cifar100: StandIn, tmp_path: Path) -> None:
    data = CIFAR100(root=tmp_path / "data", **SMALL)
    data.prepare_data()
    data.setup()
    assert (data.num_classes, len(data.classes), data.input_shape) == (100, 100, (3, 32, 32))
    assert data.load("train").y.tolist() == list(range(100))
    x, _ = next(iter(data.test_dataloader()))
    first = pixels(20, 0).reshape(20, 3, 32, 32)[0]
    mean, std = (np.array(value, dtype=np.float32)[:, None, None] for value in (data.mean, data.std))
    assert np.allclose(x[0].numpy(), (first / np.float32(255) - mean) / std, atol=1e-6)


def test_an_archive_that_is_not_the_expected_one_is_refused(
    cifar10: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(
        ConnectionError, match=r"CIFAR10 must be downloaded from http.*, which failed: .*corrupted.*Check"
    ):
        CIFAR10(root=tmp_path / "data").prepare_data()


def test_an_archive_that_is_not_served_is_an_error_that_says_where_it_should_be(
    cifar10: StandIn, tmp_path: Path
) -> None:
    cifar10.archive.unlink()
    with pytest.raises(
        ConnectionError, match=r"which failed: .*404.*put cifar-10-python\.tar\.gz into '.*data' yourself"
    ):
        CIFAR10(root=tmp_path / "data").prepare_data()


def test_a_damaged_file_is_noticed_and_downloaded_again(cifar10: StandIn, tmp_path: Path) -> None:
    data = CIFAR10(root=tmp_path / "data", **SMALL)
    data.prepare_data()
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut off")
    with pytest.raises(FileNotFoundError, match=r"complete, undamaged files of cifar-10-python\.tar\.gz"):
        data.setup("fit")
    data.prepare_data()
    data.setup("fit")


@pytest.mark.parametrize(("download", "fix"), [(False, "Set `download` to true"), (True, "Run `prepare_data`")])
def test_a_missing_folder_says_what_to_do(download: bool, fix: str, tmp_path: Path) -> None:
    data = CIFAR100(root=tmp_path / "nowhere", download=download)
    assert data.num_classes == 100  # known without the files
    if not download:
        data.prepare_data()  # does nothing
    with pytest.raises(FileNotFoundError, match=rf"CIFAR100 needs .*'.*nowhere/cifar-100-python', got .*{fix}.*`root`"):
        data.setup("fit")
    assert not (tmp_path / "nowhere").exists()
