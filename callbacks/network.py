"""The part of a LightningModule that maps images to logits: find it by name, copy it, put it in evaluation mode."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn


def find_network(pl_module: nn.Module, name: str | None) -> nn.Module:
    """`pl_module`, or the submodule with the dotted `name`.

    Raises:
        MisconfigurationException: There is no such submodule.
    """
    if name is None:
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in pl_module.named_children()) or "none"
        raise MisconfigurationException(
            f"`network` must name a submodule of {type(pl_module).__name__}, got {name!r}. Its direct submodules are: "
            f"{children}."
        ) from error


def evaluation_copy(
    pl_module: nn.Module,
    name: str | None,
    *,
    device: torch.device | str,
    state_dict: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the network in evaluation mode and float32; `pl_module` itself is not touched.

    Args:
        pl_module: Of the trainer.
        name: Which submodule is the network; None takes all of `pl_module`.
        device: Where the copy lives.
        state_dict: Weights and buffers of the whole of `pl_module` for the copy; those it has now when not given.
    """
    network = copy.deepcopy(find_network(pl_module, name))
    if state_dict is not None:
        prefix = "" if name is None else f"{name}."
        network.load_state_dict(
            {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        )
    return network.to(device=device, dtype=torch.float32).eval()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`network` in evaluation mode; at the end each of its modules has the mode it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
