"""Find out before training that a network does not fit the data, and leave no trace of having looked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def check_logits(module: nn.Module, x: Tensor, num_classes: int) -> None:
    """Run `module` on a small batch and raise unless it gives finite logits for every class of the data.

    It runs in evaluation mode without gradients. The modes of all submodules, the buffers and torch's random state are
    afterwards what they were. More logits than classes are allowed: data with 10 of ImageNet's classes may be given to
    a network with 1,000 outputs.

    Args:
        module: The network.
        x: A few images `(N, ...)` as the network gets them, on the network's device. One is enough.
        num_classes: Number of classes in the data.

    Raises:
        ValueError: The images are not finite.
        ValueError: The network cannot be run on them.
        ValueError: Its output is no tensor, is not `(N, C)`, or is not floating point.
        ValueError: It has fewer columns than the data has classes, or is not finite.

    Example:
        >>> check_logits(nn.Linear(4, 10), torch.zeros(2, 4), num_classes=10)
        >>> check_logits(nn.Linear(4, 10), torch.zeros(2, 4), num_classes=100)
        Traceback (most recent call last):
        ...
        ValueError: Linear must give a logit for each of the data's 100 classes, got 10. ...
    """
    broken = int((~torch.isfinite(x)).sum())
    if broken:
        raise ValueError(
            f"The images must be finite, got NaN or infinity in {broken} of {x.numel()} values. "
            "Look for a division by a standard deviation of 0 in the normalisation, or a broken file."
        )
    with _untouched(module, x.device), torch.no_grad():
        output = _output(module, x)
    _check_shape(module, output, x.shape[0], num_classes)


@contextmanager
def _untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode inside; every mode, buffer and torch's random state as before outside."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, value, value.clone())
        for part in module.modules()
        for name, value in part._buffers.items()
        if value is not None
    ]
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):
        module.eval()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode  # each its own: a frozen batch norm may sit in a network that trains
            with torch.no_grad():
                for part, name, value, before in buffers:
                    part._buffers[name] = value.copy_(before)


def _output(module: nn.Module, x: Tensor) -> object:
    try:
        return module(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{type(module).__name__} must accept a batch of the data, which has shape {tuple(x.shape)}, "
            f"got the error: {error}. "
            "Choose a network for this image size and number of channels, or set its `in_channels`."
        ) from error


def _check_shape(module: nn.Module, output: object, num_images: int, num_classes: int) -> None:
    name = type(module).__name__
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{name} must return one tensor of logits (N, C), got a {type(output).__name__}. "
            "Wrap it in a module whose forward returns only the logits."
        )
    if output.ndim != 2 or output.shape[0] != num_images:
        raise ValueError(
            f"{name} must return logits (N, C), here ({num_images}, {num_classes}), got shape {tuple(output.shape)}. "
            "Pool and flatten the features before the last layer, and return its output before argmax."
        )
    if not output.is_floating_point():
        raise ValueError(
            f"{name} must return floating-point logits, got {output.dtype}. "
            "Return the last layer's output before argmax."
        )
    if output.shape[1] < num_classes:
        raise ValueError(
            f"{name} must give a logit for each of the data's {num_classes} classes, got {output.shape[1]}. "
            f"Set its `num_classes` to {num_classes}, or check the data's labels."
        )
    broken = int((~torch.isfinite(output)).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"{name} must return finite logits, got NaN or infinity for {broken} of {num_images} images. "
            "Check the weights it was given and the scale of the images."
        )
