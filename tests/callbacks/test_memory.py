"""The study at the end of a fit holds one copy of a large network's weights, whatever the number of settings."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

import qcal.quantization.made_weights as made_weights
from qcal.callbacks import PostTrainingQuantization
from qcal.quantization.observers import _lanes
from tests.callbacks.lightning_runs import NUM_CLASSES, Lit, fit, make_trainer
from tests.support.live_memory import LiveMemory


class _Wide(Lit):
    """Convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, 192, 3, stride=4, bias=False), nn.BatchNorm2d(192), nn.ReLU()]
        for _ in range(5):
            blocks += [nn.Conv2d(192, 192, 3, padding=1, bias=False), nn.BatchNorm2d(192), nn.ReLU()]
        self.model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, NUM_CLASSES))


class _Watched(PostTrainingQuantization):
    """Counts what is alive in its study."""

    memory: LiveMemory

    def on_fit_end(self, trainer: Any, pl_module: LightningModule) -> None:
        tables = [_lanes(torch.device("cpu"))]  # the same for every network
        self.memory = LiveMemory(660_000, [*pl_module.state_dict().values(), *tables])
        with self.memory:
            super().on_fit_end(trainer, pl_module)


def test_several_settings_take_one_copy_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_weights, "CACHE_BYTES", 1 << 20)
    callback = _Watched(["w8a8", "w6a8", "w4a8", "w3a8"], on_error="raise")
    module = fit(make_trainer(tmp_path, callback), _Wide())
    sizes = [parameter.nbytes for parameter in module.parameters()]
    assert sum(sizes) * 0.9 <= callback.memory.peak <= sum(sizes) + 3 * max(sizes)
    gc.collect()  # torch.export leaves cycles
    assert callback.memory.now == 0
