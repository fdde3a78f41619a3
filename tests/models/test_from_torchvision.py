from pathlib import Path

import pytest
import torch
import torchvision.models as zoo  # type: ignore[import-untyped, unused-ignore]  # torchvision ships no annotations
from torch import nn

from qcal.models import torchvision_model


# One of each layout of the head: fc, classifier, classifier[-1], a convolution; the two with auxiliary heads.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32),
        ("densenet121", 32),
        ("mobilenet_v3_small", 32),
        ("squeezenet1_1", 32),
        ("googlenet", 32),
        ("shufflenet_v2_x0_5", 32),
        ("regnet_y_400mf", 32),
    ],
)
def test_gives_one_tensor_of_logits_in_both_modes(name: str, size: int) -> None:
    model = torchvision_model(name, num_classes=7)
    assert model.training
    for mode in (True, False):
        assert model.train(mode)(torch.zeros(2, 3, size, size)).shape == (2, 7)


# RegNets compute their widths with tensors, which the meta device cannot; one of them is above.
@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.list_models(module=zoo, exclude="regnet_*"))
def test_every_name_gives_the_asked_number_of_logits(name: str) -> None:
    with torch.device("meta"):
        model = torchvision_model(name, num_classes=7)
        size = 299 if name == "inception_v3" else 224
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_state_dict_is_that_of_torchvision() -> None:
    with torch.device("meta"):
        assert torchvision_model("resnet18").state_dict().keys() == zoo.resnet18().state_dict().keys()


@pytest.mark.parametrize(
    ("given", "suggested"), [("resnet-18", "resnet18"), ("ResNet50", "resnet50"), ("mobilenet_v3", "mobilenet_v3")]
)
def test_unknown_name_is_refused_with_close_ones(given: str, suggested: str) -> None:
    with pytest.raises(ValueError, match=rf"`name` must be one of the \d+.*got '{given}'\. Did you mean .*{suggested}"):
        torchvision_model(given)


def test_name_like_no_other_is_refused_with_where_to_look() -> None:
    with pytest.raises(ValueError, match=r"list_models.*got 'xyz'\. Print that list"):
        torchvision_model("xyz")


def test_a_detector_is_not_a_classifier() -> None:
    with pytest.raises(ValueError, match="got 'fasterrcnn_resnet50_fpn'"):
        torchvision_model("fasterrcnn_resnet50_fpn")


def test_fewer_than_two_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_classes` must be .* at least 2, got 1\. Set it"):
        torchvision_model("resnet18", num_classes=1)


def test_unknown_pretrained_weights_are_refused_with_the_allowed_ones() -> None:
    with pytest.raises(
        ValueError, match=r"None or one of IMAGENET1K_V1, IMAGENET1K_V2.*`resnet50`, got 'V3'\. Weights"
    ):
        torchvision_model("resnet50", pretrained="V3")


def downloaded(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Stand in for the download: a network with random weights where torch.hub keeps `name`'s file."""
    auxiliary = {"aux_logits": True, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = zoo.get_model(name, **auxiliary)
    file = home / "hub" / "checkpoints" / zoo.get_model_weights(name).IMAGENET1K_V1.url.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(home))
    return network


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "googlenet"])
def test_head_of_pretrained_weights_is_replaced_when_the_classes_differ(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = downloaded(name, tmp_path, monkeypatch).state_dict()
    model = torchvision_model(name, num_classes=7, pretrained="IMAGENET1K_V1")
    state = model.state_dict()
    new = {key for key in state if not torch.equal(state[key], source[key])}
    assert len(new) == 2, new  # weight and bias of the head; all else is as downloaded
    for mode in (True, False):
        assert model.train(mode)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_pretrained_weights_are_kept_whole_for_their_own_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = downloaded("squeezenet1_1", tmp_path, monkeypatch).state_dict()
    model = torchvision_model("squeezenet1_1", num_classes=1000, pretrained="DEFAULT")
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "vit_b_16", "swin_t", "densenet121", "convnext_tiny"])
def test_heads_of_other_layouts_are_replaced(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded(name, tmp_path, monkeypatch)
    model = torchvision_model(name, num_classes=7, pretrained="IMAGENET1K_V1")
    size = 299 if name == "inception_v3" else 224
    for mode in (True, False):
        assert model.train(mode)(torch.zeros(2, 3, size, size)).shape == (2, 7)
