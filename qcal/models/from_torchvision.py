"""Any `torchvision.models` classifier by name, as a plain network from images to logits."""

import difflib
from typing import cast

import torchvision.models as zoo  # type: ignore[import-untyped, unused-ignore]  # torchvision ships no annotations
from torch import nn

# These two return a named tuple of main and auxiliary logits in training; without the auxiliary heads every mode
# returns one tensor.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
_AUXILIARY_ATTRIBUTES = {"aux_logits": False, "aux1": None, "aux2": None, "AuxLogits": None}


def torchvision_model(name: str, num_classes: int = 1000, pretrained: str | None = None) -> nn.Module:
    """Return the `torchvision.models` classifier called `name`, with `num_classes` logits.

    The result is torchvision's own class, so its state dict is interchangeable with any other copy of that network.
    GoogLeNet and Inception v3 are built without their auxiliary heads: in training they would return a named tuple, and
    the loss of a regime is defined on one `(N, C)` tensor. All take colour images; their smallest image differs (ViT,
    Swin and MaxViT are made for 224 x 224, Inception for 299 x 299, AlexNet needs 63).

    Args:
        name: Any of `torchvision.models.list_models(module=torchvision.models)`: "resnet18", "mobilenet_v2",
            "vit_b_16", ...
        num_classes: Number of logits C, at least 2. The default is ImageNet's.
        pretrained: None for a fresh initialisation, "DEFAULT" for torchvision's best weights, or the name of one of
            them ("IMAGENET1K_V1"); downloaded on first use. When C differs from theirs, the last layer is replaced by a
            freshly initialised one. They expect ImageNet's normalisation: mean (0.485, 0.456, 0.406), standard
            deviation (0.229, 0.224, 0.225).

    Returns:
        A network `(N, 3, H, W) -> (N, num_classes)`, in training mode.

    Raises:
        ValueError: Unknown `name` or `pretrained`, or fewer than 2 classes.

    Example:
        >>> import torch
        >>> model = torchvision_model("squeezenet1_1", num_classes=7)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """
    _check_name(name)
    if num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2, got {num_classes}. "
            "Set it to the number of classes in the data."
        )
    if pretrained is not None:
        return _with_pretrained_weights(name, num_classes, pretrained)
    if name in _WITH_AUXILIARY_HEADS:
        # `init_weights` has to be said, or torchvision warns that its default will change.
        options = {"aux_logits": False, "init_weights": True}
        return cast(nn.Module, zoo.get_model(name, weights=None, num_classes=num_classes, **options))
    return cast(nn.Module, zoo.get_model(name, weights=None, num_classes=num_classes))


def _with_pretrained_weights(name: str, num_classes: int, pretrained: str) -> nn.Module:
    allowed = zoo.get_model_weights(name)
    if pretrained not in allowed.__members__:
        raise ValueError(
            f"`pretrained` must be None or one of {', '.join(allowed.__members__)} for `{name}`, got {pretrained!r}. "
            "Weights of your own are loaded by `weights: <path>`."
        )
    weights = allowed[pretrained]
    model = cast(nn.Module, zoo.get_model(name, weights=weights))
    if name in _WITH_AUXILIARY_HEADS:
        _drop_auxiliary_heads(model)
    if num_classes != len(weights.meta["categories"]):
        _replace_head(model, num_classes)
    return model


def _drop_auxiliary_heads(model: nn.Module) -> None:
    for attribute, without in _AUXILIARY_ATTRIBUTES.items():
        if hasattr(model, attribute):
            setattr(model, attribute, without)


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a fresh layer where the logits are made: the last linear layer, or a SqueezeNet's last 1 x 1 convolution."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    path, old = layers[-1]
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, kernel_size=1)
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


def _check_name(name: str) -> None:
    known = zoo.list_models(module=zoo)
    if name in known:
        return
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Print that list to choose one."
    raise ValueError(
        f"`name` must be one of the {len(known)} classifiers in "
        f"torchvision.models.list_models(module=torchvision.models), got {name!r}. {hint}"
    )
