"""The regime overlays: each parses, builds, changes one thing, says every argument, and is in the table."""

import importlib
import inspect
import re
from importlib.resources import files

import jsonargparse
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from qcal import losses
from qcal.losses import RegimeLoss

FOLDER = files("qcal.configs").joinpath("regimes")
NAMES = sorted(entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))
ALLOWED = ("loss", "batch_transform")
# Whether a larger value raises confidence, for the losses whose sign decides.
RAISES = {"epsilon": -1, "penalty_weight": -1, "temperature": 1, "strength": 1}
DEPRECATED = {"size_average", "reduce"}  # of torch.nn.CrossEntropyLoss


class NoDuplicates(yaml.SafeLoader):  # type: ignore[misc]  # its base has no annotations
    """A loader that does not let the last of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key in {keys}"
        mapping: dict[object, object] = super().construct_mapping(node, deep)
        return mapping


def text(name: str) -> str:
    return FOLDER.joinpath(f"{name}.yaml").read_text()


def component(name: str) -> tuple[str, str, dict[str, float]]:
    """The one part of the model that a regime sets, its class and its arguments."""
    loaded = yaml.load(text(name), NoDuplicates)  # a SafeLoader
    assert list(loaded) == ["model"], f"{name} changes more than the model"
    ((key, value),) = loaded["model"].items()
    assert set(value) == {"class_path", "init_args"}
    return key, value["class_path"], value["init_args"]


def build(class_path: str, init_args: dict[str, float]) -> tuple[type[nn.Module], nn.Module]:
    module, _, name = class_path.rpartition(".")
    cls: type[nn.Module] = getattr(importlib.import_module(module), name)
    return cls, cls(**init_args)


def table() -> dict[str, tuple[str, str]]:
    """Direction and default strength of each row of the README's table."""
    rows = re.findall(
        r"^\| \[`(\w+)`\]\((\w+)\.yaml\) \| (.*?) \| .* \| (.*) \|$", FOLDER.joinpath("README.md").read_text(), re.M
    )
    assert all(name == link for name, link, _, _ in rows)
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: (direction, strength) for name, _, direction, strength in rows}


def test_a_duplicate_key_would_be_found() -> None:
    with pytest.raises(AssertionError, match="duplicate key"):
        yaml.load("a: {b: 1, b: 2}", NoDuplicates)


@pytest.mark.parametrize("name", NAMES)
def test_a_regime_changes_one_part_of_the_model_and_says_every_argument(name: str) -> None:
    key, class_path, init_args = component(name)
    assert key in ALLOWED
    cls, _ = build(class_path, init_args)
    if key == "loss":
        assert set(init_args) == set(inspect.signature(cls).parameters) - DEPRECATED


@pytest.mark.parametrize("name", NAMES)
def test_a_regime_begins_with_what_it_is_and_where_it_comes_from(name: str) -> None:
    head = re.match(r"((?:# .*\n)+)model:\n", text(name))
    assert head is not None
    assert 2 <= head[1].count("\n") <= 4
    if component(name)[0] == "loss" and name != "cross_entropy":
        assert "Neutral: " in head[1]
        assert re.search(r"pushes|calibrating", head[1], re.IGNORECASE)
    assert "Source: " in head[1]


@pytest.mark.parametrize("name", [name for name in NAMES if component(name)[0] == "loss"])
def test_a_regime_s_loss_trains(name: str) -> None:
    _, loss = build(*component(name)[1:])
    # Far apart, so that distances exceed the margin of margin_label_smoothing.
    logits = (9 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    target = torch.arange(8) % 5
    value = loss(logits, target)
    (slope,) = torch.autograd.grad(value, logits)
    assert value.ndim == 0
    assert slope.abs().sum() > 0
    is_cross_entropy = torch.allclose(value, F.cross_entropy(logits, target), rtol=1e-6)
    assert is_cross_entropy == (name in ("cross_entropy", "dial"))


@pytest.mark.parametrize("name", [name for name in NAMES if component(name)[0] == "loss"])
def test_nothing_is_left_of_a_regime_given_before(name: str) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_subclass_arguments(nn.Module, "model.loss")
    alone = parser.parse_args(["-c", str(FOLDER.joinpath(f"{name}.yaml"))])
    for before in ("cross_entropy", "confidence_penalty", "flsd", "logit_norm"):
        both = parser.parse_args([f"-c={FOLDER.joinpath(f'{other}.yaml')}" for other in (before, name)])
        assert both.model == alone.model
        assert component(name)[2].items() <= vars(both.model.loss.init_args).items()


@pytest.mark.parametrize("name", NAMES)
def test_a_regime_has_a_row_with_its_direction_and_strength(name: str) -> None:
    direction, strength = table()[name]
    _, class_path, init_args = component(name)
    if class_path.startswith("qcal.losses."):
        assert strength == ", ".join(f"`{key}={value}`" for key, value in init_args.items())
        cls, _ = build(class_path, init_args)
        assert issubclass(cls, RegimeLoss)
        assert direction == (cls.direction if cls.direction != "either" else signed_direction(cls, init_args))


def signed_direction(cls: type[RegimeLoss], init_args: dict[str, float]) -> str:
    """What a loss of either direction does at its one argument."""
    ((key, value),) = init_args.items()
    offset = RAISES[key] * (value - cls.neutral[key])
    return "under below 0, over above" if offset == 0 else "over" if offset > 0 else "under"


def test_every_row_has_a_file() -> None:
    assert sorted(table()) == NAMES


def test_every_loss_class_has_a_regime() -> None:
    used = {component(name)[1].rpartition(".")[2] for name in NAMES}
    assert set(losses.__all__) - {"RegimeLoss", "Direction"} <= used
