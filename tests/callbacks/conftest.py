"""A Weights & Biases run that needs no account, no network, and leaves nothing to other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger


@pytest.fixture
def offline_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbLogger]:
    """A logger that writes below `tmp_path`; read it with `tests.support.wandb_file` after `wandb.finish()`."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))  # of artifacts; the user's home otherwise
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield WandbLogger(save_dir=tmp_path, project="test", offline=True)
    wandb.finish()
    wandb.teardown()
