"""Checkpoints are whole or not there."""

import errno
from pathlib import Path

import pytest
import torch

from qcal.cli.checkpoint_file import WholeCheckpoints


@pytest.fixture
def half_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half of what is written."""
    write = Path.write_bytes

    def half(self: Path, content: memoryview) -> int:
        write(self, bytes(content[: len(content) // 2]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)


def test_a_checkpoint_is_what_torch_reads(tmp_path: Path) -> None:
    weight = torch.arange(3.0)
    WholeCheckpoints().save_checkpoint({"weight": weight, "epoch": 2}, tmp_path / "new" / "last.ckpt")
    read = WholeCheckpoints().load_checkpoint(tmp_path / "new" / "last.ckpt", weights_only=True)
    assert read["epoch"] == 2
    assert torch.equal(read["weight"], weight)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_of_the_epoch_before(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)
    request.getfixturevalue("half_full")
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("half_full")
def test_a_full_disk_leaves_no_half_checkpoint_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_storage_options_are_refused_as_by_lightning(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        WholeCheckpoints().save_checkpoint({}, tmp_path / "last.ckpt", storage_options={"a": 1})
