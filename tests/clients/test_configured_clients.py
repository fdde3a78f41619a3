"""Clients that are built from configs, and one with a network of timm."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from qcal.callbacks import PostTrainingQuantization
from qcal.robustness import read_record
from tests.clients import projects
from tests.clients.project import NUM_CLASSES, VAL, ConvNet, make_loaders, pair


class CliModule(LightningModule):
    """As the command line's own documentation writes it: plain arguments, hyperparameters saved."""

    def __init__(self, width: int = 6, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(x))
        return logits

    def _shared_step(self, batch: Any, stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.log(f"{stage}_loss", loss)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._shared_step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._shared_step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])


class CliData(LightningDataModule):
    def train_dataloader(self) -> Any:
        return make_loaders(pair)[0]

    def val_dataloader(self) -> Any:
        return make_loaders(pair)[1]


def test_a_lightning_cli_takes_the_callback_from_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"settings": ["w8a8", "w4a8-mse"], "output_dir": str(tmp_path / "out"), "on_error": "raise"}
    trainer = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(tmp_path),
        "callbacks": [{"class_path": "qcal.callbacks.PostTrainingQuantization", "init_args": arguments}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": {"width": 5}}))
    monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--config", str(tmp_path / "config.yaml")])
    cli = LightningCLI(CliModule, CliData, save_config_callback=None, seed_everything_default=1)
    record = read_record(tmp_path / "out")
    assert list(record.settings) == ["w8a8", "w4a8-mse"]
    assert record.context["num_images"] == VAL
    assert record.context["attachment"]["output"] == "self"
    assert cli.trainer.global_step == 3


class TemplateModule(LightningModule):
    """The widely used template: network, partial optimizer and scheduler come from a config; metrics are inside."""

    def __init__(self, net: nn.Module, optimizer: Any, scheduler: Any, compile: bool) -> None:  # noqa: A002  # its own name
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.val_acc, self.val_loss = MulticlassAccuracy(NUM_CLASSES, average="micro"), MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def on_train_start(self) -> None:
        self.val_loss.reset()
        self.val_acc.reset()
        self.val_acc_best.reset()

    def model_step(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.forward(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model_step(batch)[0]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def setup(self, stage: str) -> None:
        if self.hparams["compile"] and stage == "fit":
            self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]  # a module wrapped in one

    def configure_optimizers(self) -> Any:
        optimizer = self.hparams["optimizer"](params=self.trainer.model.parameters())  # type: ignore[union-attr]  # set in a fit
        scheduler = self.hparams["scheduler"](optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/acc"}}


_HYDRA = """
data: {_target_: tests.clients.test_configured_clients.CliData}
model:
  _target_: tests.clients.test_configured_clients.TemplateModule
  net: {_target_: tests.clients.project.ConvNet, num_outputs: 4}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.01}
  scheduler: {_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, _partial_: true, mode: max}
  compile: false
callbacks:
  ptq: {_target_: qcal.callbacks.PostTrainingQuantization, settings: [w8a8, w4a8], on_error: raise}
  model_checkpoint: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/acc, mode: max, dirpath: ckpt}
trainer:
  _target_: lightning.pytorch.Trainer
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.mark.oracle
@pytest.mark.parametrize("compiled", [False, True])
# Objects among the hyperparameters of the template are no concern of the callback.
@pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance of `nn.Module`")
def test_a_template_project_is_instantiated_by_hydra(
    compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hydra = pytest.importorskip("hydra.utils", reason="it builds the project")
    omegaconf = pytest.importorskip("omegaconf", reason="the project's configs are its own")
    monkeypatch.chdir(tmp_path)
    config = omegaconf.OmegaConf.create(_HYDRA)
    config.model.compile = compiled
    callbacks = [hydra.instantiate(each) for each in config.callbacks.values()]
    trainer = hydra.instantiate(config.trainer, callbacks=callbacks, default_root_dir=str(tmp_path))
    trainer.fit(hydra.instantiate(config.model), datamodule=hydra.instantiate(config.data))
    record = read_record(tmp_path / "ptq")
    assert list(record.settings) == ["w8a8", "w4a8"]
    assert record.context["attachment"]["network"] == "net"
    assert record.context["network"] == ConvNet.__name__
    assert record.float_scores is not None
    assert record.float_scores.accuracy == pytest.approx(float(trainer.callback_metrics["val/acc"]), abs=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_a_network_of_timm(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the client's networks are from it")
    import lightning.pytorch as pl

    project = projects.plain(pl, make_network=lambda: timm.create_model(name, num_classes=NUM_CLASSES))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[PostTrainingQuantization(["w8a8"], on_error="raise")],
    )
    trainer.fit(project.module, project.train, project.val)
    record, (accuracy, nll) = read_record(tmp_path / "ptq"), project.evaluate()
    assert record.float_scores is not None
    assert record.float_scores.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert record.float_scores.nll == pytest.approx(nll, rel=1e-5)
    assert record.context["attachment"]["network"] == "model"
