"""How many bytes of large tensors are alive at once: counted, not sampled, so the same in every run."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook unannotated
    """Watches the storages that operations make within a with block.

    Args:
        threshold: Bytes from which on a storage counts: above those of activations.
        known: Tensors that are not counted: those that were there before.

    Attributes:
        peak: Most bytes that were alive at the end of any operation.
    """

    def __init__(self, threshold: int, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.peak = 0
        self._threshold = threshold
        self._known = {t.untyped_storage()._cdata for t in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def now(self) -> int:
        """Bytes that are alive."""
        self._live = {key: pair for key, pair in self._live.items() if not pair[0].expired()}  # type: ignore[no-untyped-call]  # as above
        return sum(size for _, size in self._live.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # Any: torch's own
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if storage.nbytes() >= self._threshold and storage._cdata not in self._known:
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # as above
                    self._live[storage._cdata] = (reference, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result
