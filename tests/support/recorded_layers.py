"""What every layer of a network computes with, seen from outside: the same view of any library's graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerCall:
    """One convolution or linear layer as it was computed."""

    images: Tensor
    weight: Tensor
    bias: Tensor | None


class RecordedLayers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook unannotated
    """Within a with block, keeps the operands of every convolution and linear layer in the order they are computed.

    It listens below the autograd and fusion layers of torch, so neither the graph nor its owner can tell, and a folded,
    a rewritten and a fake-quantized network are all seen the same way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.calls: list[LayerCall] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],  # Any: whatever the operation takes and returns
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is aten.convolution.default:
            self.calls.append(LayerCall(args[0], args[1], args[2]))
        elif func is aten.addmm.default:
            self.calls.append(LayerCall(args[1], args[2].t(), args[0]))
        return func(*args, **(kwargs or {}))
