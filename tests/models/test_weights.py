from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qcal.models import CifarResNet, load_weights

State = dict[str, Tensor]


class Attacker:
    """Unpickling this would call a function."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("run by unpickling",)


def network(seed: int) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(depth=8, num_classes=3, width=2)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def equal(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "_orig_mod."),
        lambda state: {"state_dict": prefixed(state, "model.")},
        lambda state: {"state_dict": prefixed(state, "net._orig_mod.")},
        lambda state: {"state_dict": prefixed(state, "model.module.")},
        lambda state: {"state_dict": prefixed(state, "model.") | {"loss.weight": torch.ones(3)}},
    ],
    ids=["plain", "state_dict", "model", "parallel", "compiled", "lightning", "twice", "ddp in it", "with a loss"],
)
def test_the_network_is_found_in_every_kind_of_file(wrap: Callable[[State], object], tmp_path: Path) -> None:
    source, target = network(0), network(1)
    torch.save(wrap(dict(source.state_dict())), tmp_path / "file.pt")
    load_weights(target, tmp_path / "file.pt")
    assert equal(target.state_dict(), source.state_dict())


def test_a_networks_own_attribute_called_model_is_not_a_prefix(tmp_path: Path) -> None:
    source, target = (nn.ModuleDict({"model": nn.Linear(2, 2)}) for _ in range(2))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "file.pt")
    load_weights(target, str(tmp_path / "file.pt"))
    assert equal(target.state_dict(), source.state_dict())


def test_a_networks_own_attribute_called_net_beside_others_is_kept(tmp_path: Path) -> None:
    source, target = (nn.ModuleDict({"net": nn.Linear(2, 2), "head": nn.Linear(2, 2)}) for _ in range(2))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "file.ckpt")
    load_weights(target, tmp_path / "file.ckpt")
    assert equal(target.state_dict(), source.state_dict())


def test_values_are_converted_to_the_networks_dtype(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in nn.Linear(2, 2).state_dict().items()}, tmp_path / "half.pt")
    target = nn.Linear(2, 2)
    load_weights(target, tmp_path / "half.pt")
    assert target.weight.dtype == torch.float32


def test_files_without_batch_counters_load(tmp_path: Path) -> None:
    source, target = network(0), network(1)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    load_weights(target, tmp_path / "old.pt")
    assert torch.equal(target.fc.weight, source.fc.weight)


def refused(target: nn.Module, file: Path, match: str) -> None:
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_weights(target, file)
    assert equal(dict(target.state_dict()), before)


def test_missing_file_is_refused_with_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(
        nn.Linear(1, 1), Path("no.pt"), rf"`no\.pt`, which is not there\. Relative paths start at .*{tmp_path.name}"
    )


def test_a_file_that_runs_code_is_refused_unrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Attacker()}, tmp_path / "bad.pt")
    refused(nn.Linear(1, 1), tmp_path / "bad.pt", r"weights_only=True, got `.*bad\.pt`.*If you trust it")
    assert "run by unpickling" not in capsys.readouterr().out


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    refused(nn.Linear(1, 1), tmp_path / "whole.pt", r"weights_only=True.*save only the state dict")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut off"])
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    refused(nn.Linear(1, 1), tmp_path / "broken.pt", r"`weights` must be a file that torch\.load reads.*broken\.pt")


@pytest.mark.parametrize(
    ("content", "described"),
    [
        (torch.ones(3), "a Tensor"),
        ({}, "an empty dictionary"),
        ({"epoch": 3, "lr": 0.1}, r"a dictionary with 'epoch', 'lr'"),
        ({"state_dict": {"a": 1, "b": 2, "c": 3, "d": 4}}, r"a dictionary with 'a', 'b', 'c', \.\.\."),
    ],
)
def test_what_is_not_a_state_dict_is_refused_and_described(content: object, described: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    refused(nn.Linear(1, 1), tmp_path / "file.pt", rf"plain or under state_dict or model, got {described} in .*Save it")


def test_keys_that_differ_are_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 1), "offset": torch.ones(1)}, tmp_path / "file.pt")
    refused(nn.Linear(1, 1), tmp_path / "file.pt", r"Linear, got 1 missing \(bias\), 1 unexpected \(offset\)\. Build")


def test_only_the_first_of_many_missing_keys_are_named(tmp_path: Path) -> None:
    torch.save(network(0).state_dict(), tmp_path / "small.pt")
    names = r"layer1\.1\.conv1\.weight, layer1\.1\.bn1\.weight, layer1\.1\.bn1\.bias, \.\.\."
    refused(CifarResNet(14, num_classes=3, width=2), tmp_path / "small.pt", rf"\d+ missing \({names}\)")


def test_shapes_that_differ_are_named_with_both(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 10).state_dict(), tmp_path / "ten.pt")
    shapes = r"2 of another shape \(bias \(10,\) where the model has \(100,\), weight \(10, 2\) where .* \(100, 2\)\)"
    refused(nn.Linear(2, 100), tmp_path / "ten.pt", rf"{shapes}\. Build the model .*num_classes")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    torch.save({"weight": torch.tensor([[value]]), "bias": torch.zeros(1)}, tmp_path / "file.pt")
    refused(
        nn.Linear(1, 1), tmp_path / "file.pt", r"must be finite, got NaN or infinity in 1 of 2 tensors \(weight\)\."
    )
