import hashlib
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped
from torchvision.datasets import imagenet  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data import ImageNet

# Python 3.12 warns that torchvision unpacks archives without naming a filter.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")

SMALL: dict[str, Any] = {  # Any: arguments of several types
    "image_size": 8,
    "resize_size": 10,
    "val_size": 1,
    "recalibration_size": 1,
    "range_estimation_size": 2,
    "num_workers": 0,
}
WNIDS = ("n01440764", "n01443537", "n02012849")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane")


def jpeg(seed: int) -> bytes:
    stream = BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(values).save(stream, "JPEG")
    return stream.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]  # the mode is a variable
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return stream.getvalue()


def development_kit() -> bytes:
    """Synsets with their numbers (not in the order of the wnids) and the classes of the validation images."""
    kind = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    synsets = np.array(
        [
            (2, WNIDS[0], WORDS[0], "a fish", 0),
            (1, WNIDS[1], WORDS[1], "a fish", 0),
            (3, WNIDS[2], WORDS[2], "a bird", 0),
            (4, "n00000001", "animal", "has children, so is no class", 3),
        ],
        dtype=kind,
    )
    meta = BytesIO()
    savemat(meta, {"synsets": synsets})
    folder = "ILSVRC2012_devkit_t12/data"
    truth = b"1\n2\n3\n2\n"
    files = {f"{folder}/meta.mat": meta.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth}
    return tarred(files, "w:gz")


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny stand-ins for the three official archives, and their checksums where torchvision looks."""
    train = {
        f"{wnid}.tar": tarred({f"{wnid}_{number}.JPEG": jpeg(10 * place + number) for number in range(3)})
        for place, wnid in enumerate(WNIDS)
    }
    val = {f"ILSVRC2012_val_0000000{number}.JPEG": jpeg(90 + number) for number in range(1, 5)}
    for part, content in (("devkit", development_kit()), ("train", tarred(train)), ("val", tarred(val))):
        name, _ = imagenet.ARCHIVE_META[part]
        (tmp_path / name).write_bytes(content)
        checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(imagenet.ARCHIVE_META, part, (name, checksum))
    return tmp_path


def test_official_archives_are_extracted_once_and_named_in_words(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageNet(root=archives, **SMALL)
    data.prepare_data()
    monkeypatch.delattr(datasets, "ImageNet")  # so that torchvision cannot be asked again
    data.prepare_data()
    data.setup()
    assert data.classes == WORDS
    assert data.pool("train").y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.pool("test").y.tolist() == [0, 0, 1, 2]
    names = sorted(path.name for path in (archives / "val" / WNIDS[0]).iterdir())
    assert names == ["ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000004.JPEG"]  # number 2 is the tench
    x, _ = next(iter(data.test_dataloader()))
    assert x.shape == (4, 3, 8, 8)


def test_only_the_archives_of_the_pools_asked_for_are_needed(archives: Path) -> None:
    (archives / imagenet.ARCHIVE_META["train"][0]).unlink()
    data = ImageNet(root=archives, train=None, **SMALL)
    data.prepare_data()
    data.setup("test")
    assert data.num_classes == 3


def test_a_damaged_archive_is_refused(archives: Path) -> None:
    (archives / imagenet.ARCHIVE_META["val"][0]).write_bytes(b"cut off")
    with pytest.raises(RuntimeError, match=r"ILSVRC2012_img_val\.tar is not present .* or is corrupted"):
        ImageNet(root=archives, **SMALL).prepare_data()


def test_extracted_folders_without_the_development_kit_are_named_by_wnid(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for place, wnid in enumerate(WNIDS):
            (tmp_path / part / wnid).mkdir(parents=True)
            for number in range(2):
                (tmp_path / part / wnid / f"{number}.JPEG").write_bytes(jpeg(10 * place + number))
    data = ImageNet(root=tmp_path, **SMALL)
    data.prepare_data()
    data.setup()
    assert data.classes == WNIDS
    assert data.roles["test"].size == 6


def test_an_interrupted_extraction_is_refused(archives: Path) -> None:
    data = ImageNet(root=archives, **SMALL)
    data.prepare_data()
    (archives / "train" / "n09999999.tar").write_bytes(b"not extracted yet")
    with pytest.raises(ValueError, match=r"train' must hold nothing but class folders, got n09999999\.tar .*Remove"):
        data.setup("fit")


def test_neither_archives_nor_folders_is_an_error_that_names_both(tmp_path: Path) -> None:
    data = ImageNet(root=tmp_path, **SMALL)
    data.prepare_data()
    with pytest.raises(
        FileNotFoundError, match=r"ImageNet needs .*ILSVRC2012_img_train\.tar.*or the folder.*train.*got"
    ):
        data.setup("fit")
