"""What a watch may touch and what it compares: modules that can carry hooks, tensors that can be logits."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Their fast paths look for hooks on their parts and for function modes: watching inside would change their arithmetic.
_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)

AGREEMENT = 1e-3
"""Largest difference between two runs of a network, over the largest logit, that another order of sums may cause."""
HALF_AGREEMENT = 3e-2
"""The same where one of them ran in half precision."""


def modules_to_hook(root: nn.Module, *, fast_paths_too: bool) -> Iterator[tuple[str, nn.Module]]:
    """Submodules by dotted name, without what is inside compiled code: a hook there means compiling it again.

    Args:
        root: Its own name is empty.
        fast_paths_too: Whether modules of torch are included that compute in another way when hooks are on them.

    Example:
        >>> [name for name, _ in modules_to_hook(nn.Sequential(nn.Linear(2, 2)), fast_paths_too=True)]
        ['', '0']
    """
    closed: list[str] = []
    for name, module in root.named_modules():
        if any(_is_inside(name, outer) for outer in closed):
            continue
        fast = isinstance(module, _FAST_PATHS) and not fast_paths_too
        if fast or _is_compiled_in_place(module) or isinstance(module, torch.jit.ScriptModule):
            closed.append(name)
            continue
        if hasattr(module, "_orig_mod"):
            closed.append(f"{name}._orig_mod" if name else "_orig_mod")
        yield name, module


def is_compiled(root: nn.Module) -> bool:
    """Whether `torch.compile` has touched the module or a part of it."""
    return any(hasattr(module, "_orig_mod") or _is_compiled_in_place(module) for module in root.modules())


def has_fast_paths(root: nn.Module) -> bool:
    """Whether a part of the module computes in another way while a `TorchFunctionMode` is active."""
    return any(isinstance(module, _FAST_PATHS) for module in root.modules())


def can_be_logits(tensor: Tensor) -> bool:
    """Whether it is a floating `(N,)` or `(N, C)` tensor."""
    return tensor.is_floating_point() and tensor.ndim in (1, 2) and tensor.numel() > 0


def holds_logits(tensor: Tensor) -> bool:
    """Whether it can be logits, or is `(N, C, 1, 1)` or `(N, 1, C)`, which a step makes logits of."""
    if tensor.ndim > 2 and tensor.is_floating_point() and tensor.numel() > 0:
        return tensor.numel() == len(tensor) * max(tensor.shape[1:])
    return can_be_logits(tensor)


def has_forward(module: nn.Module) -> bool:
    """Whether its class says what it does when it is called; a `ModuleList` and many LightningModules do not.

    Example:
        >>> has_forward(nn.Linear(2, 2)), has_forward(nn.ModuleList())
        (True, False)
    """
    return not type(module).forward.__module__.startswith(
        ("torch.nn.modules.module", "lightning.pytorch.", "pytorch_lightning.")
    )


def same_rows(one: torch.Size, other: torch.Size) -> bool:
    """Whether two shapes are the same, or one is the other flattened to `(N, ...)` -> `(N, F)`; `(N, 1)` is `(N,)`.

    Example:
        >>> same_rows(torch.Size([4, 3, 2]), torch.Size([4, 6])), same_rows(torch.Size([4, 6]), torch.Size([6, 4]))
        (True, False)
    """
    if one == other:
        return True
    flat = 0 < min(len(one), len(other)) <= 2 and one[0] == other[0]
    return flat and one.numel() == other.numel()


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether both hold the same rows of numbers: the same memory, or a cast, clone or flattening of it.

    Example:
        >>> logits = torch.randn(4, 1)
        >>> is_same(logits, logits.clone().squeeze(1)), is_same(logits, logits + 1)
        (True, False)
    """
    if not same_rows(one.shape, other.shape) or one.device != other.device or one.layout != other.layout:
        return False
    # Float32 holds what half precision and labels hold; of two doubles it compares what quantization would see.
    return torch.equal(one.detach().float().flatten(), other.detach().float().flatten())


def is_same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether both are one tensor, or views of all of one memory: not equal by chance, as two copies of a network are.

    Example:
        >>> logits = torch.randn(4, 1)
        >>> is_same_memory(logits, logits.squeeze(1)), is_same_memory(logits, logits.clone())
        (True, False)
    """
    if one is other:
        return True
    is_plain = all(each.layout == torch.strided and each.numel() > 0 for each in (one, other))
    return is_plain and one.data_ptr() == other.data_ptr() and same_rows(one.shape, other.shape)


def agrees(again: Tensor, logits: Tensor) -> bool:
    """Whether a network that was run again gave the logits it gave before, up to the order of sums.

    Example:
        >>> agrees(torch.tensor([[1.0, 2.0001]]), torch.tensor([[1.0, 2.0]]))
        True
    """
    if not same_rows(again.shape, logits.shape):
        return False
    is_half = any(each.dtype in (torch.float16, torch.bfloat16) for each in (again, logits))
    one, other = again.detach().float().flatten(), logits.detach().float().flatten()
    return bool((one - other).abs().max() <= (HALF_AGREEMENT if is_half else AGREEMENT) * other.abs().max())


def _is_compiled_in_place(module: nn.Module) -> bool:
    """By `module.compile()`, or by Lightning for a compiled LightningModule."""
    return getattr(module, "_compiled_call_impl", None) is not None or bool(getattr(module, "_compiler_ctx", None))


def _is_inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")
