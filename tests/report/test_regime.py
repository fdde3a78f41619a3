from pathlib import Path
from typing import Any

import pytest
import yaml

import qcal.losses
from qcal.losses.regime import RegimeLoss
from qcal.report.regime import BASELINE, data_of, model_of, recipe_of, regime_of

REGIMES = Path(__file__).resolve().parents[2] / "configs" / "regimes"


def _loss(name: str, **arguments: Any) -> dict[str, Any]:
    return {"model": {"loss": {"class_path": name, "init_args": arguments}}}


def test_every_packaged_regime_has_a_name_of_its_own() -> None:
    names = {path.stem: regime_of(yaml.safe_load(path.read_text())) for path in REGIMES.glob("*.yaml")}
    # At the strength in its file the dial is cross-entropy.
    assert names.pop("dial") == names["cross_entropy"] == BASELINE
    assert len(set(names.values())) == len(names)
    assert names["label_smoothing"] == "label smoothing 0.1"
    assert names["negative_label_smoothing"] == "label smoothing -0.05"
    assert names["flsd"] == "FLSD 3/3/5"
    assert names["training_temperature_over"] == "training T 2"
    assert names["mixup"] == "mixup 0.2"
    assert names["brier"] == "Brier"
    assert names["logit_norm"] == "LogitNorm 0.04"
    assert max(map(len, names.values())) <= 28


@pytest.mark.parametrize("name", [n for n in qcal.losses.__all__ if n.endswith(("Loss", "Dial")) and n != "RegimeLoss"])
def test_a_loss_at_its_neutral_arguments_is_cross_entropy(name: str) -> None:
    known = getattr(qcal.losses, name)
    assert issubclass(known, RegimeLoss)
    assert regime_of(_loss(f"qcal.losses.{name}", **known.neutral)) == BASELINE


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({}, BASELINE),
        (_loss("torch.nn.CrossEntropyLoss", label_smoothing=0.0, weight=None), BASELINE),
        (_loss("torch.nn.CrossEntropyLoss", label_smoothing=0.2), "label smoothing 0.2"),
        (_loss("torch.nn.CrossEntropyLoss", weight=[1, 2]), "cross-entropy, classes weighted"),
        (_loss("qcal.losses.ConfidenceDial", strength=0.5), "dial +0.5"),
        (_loss("qcal.losses.ConfidenceDial", strength=-1), "dial -1"),
        (_loss("qcal.losses.FocalLoss"), "focal 3"),
        (_loss("qcal.losses.BrierLoss", mix=0.5), "Brier, mix 0.5"),
        (_loss("my_regimes.Squared", weight=0.01, power=None), "Squared (weight 0.01)"),
        ({"model": {"loss": "my_regimes.Plain"}}, "Plain"),
    ],
)
def test_names(config: dict[str, Any], name: str) -> None:
    assert regime_of(config) == name


def test_a_transform_of_the_batch_is_added_to_the_loss() -> None:
    config = _loss("qcal.losses.FocalLoss", gamma=2)
    config["model"]["batch_transform"] = {
        "class_path": "torchvision.transforms.v2.CutMix",
        "init_args": {"alpha": 1.0, "num_classes": None},
    }
    assert regime_of(config) == "focal 2 + CutMix 1"


def test_model_and_data_are_named() -> None:
    network = {"class_path": "qcal.models.torchvision_model", "init_args": {"name": "resnet18", "num_classes": 10}}
    config = {"model": {"model": network}, "data": {"class_path": "qcal.data.CIFAR100", "init_args": None}}
    assert (model_of(config), data_of(config)) == ("torchvision_model resnet18", "CIFAR100")


def test_the_recipe_is_all_but_regime_seed_and_places() -> None:
    config = {
        "seed_everything": 1,
        "model": {"loss": {"class_path": "a.B"}, "optimizer": {"class_path": "torch.optim.SGD"}},
        "data": {"class_path": "qcal.data.Digits", "init_args": {"root": "here", "batch_size": 64}},
        "trainer": {"max_epochs": 3},
        "run": {"dir": "somewhere"},
    }
    same = {
        **config,
        "seed_everything": 2,
        "model": {**config["model"], "loss": {"class_path": "c.D"}},  # type: ignore[dict-item]  # nested plain values
        "data": {"class_path": "qcal.data.Digits", "init_args": {"root": "there", "batch_size": 64}},
        "run": {"dir": "elsewhere"},
    }
    assert recipe_of(config) == recipe_of(same)
    assert recipe_of(config) != recipe_of({**config, "trainer": {"max_epochs": 4}})
    assert recipe_of(config) != recipe_of({**config, "data": {"class_path": "qcal.data.Digits", "init_args": {}}})
