"""Watch one step of somebody else's LightningModule: which submodule made what the loss read, and from what.

Forward hooks see every call of a submodule, a `TorchFunctionMode` sees the loss functions. Nothing is changed: results
pass through, no random number is drawn, and hooks and mode are gone when the watch stops. Large activations are known
by weak references to their storage, so that none lives longer than it would have; only what can be logits is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from qcal.callbacks.batches import FLOAT, as_labels, walk
from qcal.callbacks.changes import is_change, split, written
from qcal.callbacks.observation import Argument, Call, Observation, Reading
from qcal.callbacks.watchable import (
    can_be_logits,
    has_fast_paths,
    holds_logits,
    is_compiled,
    is_same,
    is_same_memory,
    modules_to_hook,
    same_rows,
)

BINARY_LOSS = "binary_cross_entropy_with_logits"
PROBABILITY_LOSS = "binary_cross_entropy"

_LOSSES: Mapping[object, str] = {
    function: function.__name__
    for function in (
        F.cross_entropy,
        F.nll_loss,
        F.binary_cross_entropy_with_logits,
        F.binary_cross_entropy,
        F.multi_margin_loss,
    )
}
# What losses written by hand read logits with, and what makes of logits what a loss function reads.
_ON_THE_WAY: Mapping[object, str] = {
    function: function.__name__
    for function in (
        *(F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.softmax, torch.softmax, Tensor.softmax),
        *(torch.log, Tensor.log, torch.sigmoid, Tensor.sigmoid, F.sigmoid),
    )
}
# What predictions are made with.
_LARGEST: Mapping[object, str] = {
    function: function.__name__
    for function in (torch.argmax, Tensor.argmax, torch.max, Tensor.max, torch.topk, Tensor.topk)
}
# Which of them a loss function undoes. Cross-entropy of a softmax is no such case: there probabilities are the output.
_UNDONE = {"nll_loss": ("log_softmax", "log", "softmax"), PROBABILITY_LOSS: ("sigmoid",)}


class Watch:
    """Watches from `start` to `stop`.

    Args:
        module: The LightningModule.
        leaves: The tensors of the batch, by path.
        is_discarded: Whether nothing of this step is kept (a sanity check). Only then are modules watched whose
            fast paths a watch turns off: their results would differ in the last bits.
    """

    def __init__(self, module: nn.Module, leaves: Mapping[str, Tensor], *, is_discarded: bool = False) -> None:
        self.observation = Observation(leaves)
        self._module = module
        self._is_discarded = is_discarded
        self._handles: list[RemovableHandle] = []
        self._mode: _LossMode | None = None
        self._stack: list[int] = []
        self._made: dict[int, tuple[StorageWeakRef, int, torch.Size]] = {}
        self._changes: dict[int, tuple[ref[Tensor], str]] = {}
        self._on_the_way: list[tuple[Tensor, Tensor, str]] = []
        self._unsure: list[Reading] = []

    def start(self) -> None:
        """Put the hooks and the mode in place."""
        for name, module in modules_to_hook(self._module, fast_paths_too=self._is_discarded):
            self._handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after, always_call=True))
        self.observation.is_blind = not self._handles
        leaves = self.observation.leaves
        self.observation.originals = {path: leaf.clone() for path, leaf in leaves.items() if leaf.ndim >= 2}
        if not is_compiled(self._module) and (self._is_discarded or not has_fast_paths(self._module)):
            self._mode = _LossMode(self._note_function)
            self._mode.__enter__()  # type: ignore[no-untyped-call]  # torch has no types for it

    def stop(self) -> Observation:
        """Remove hooks and mode; what was seen."""
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above
        while self._handles:
            self._handles.pop().remove()
        unsure = sorted(self._unsure, key=lambda reading: reading.by in _LARGEST.values())  # these tell the least
        self.observation.readings = [*self.observation.readings, *unsure]
        self._made, self._on_the_way, self._unsure, self._stack, self._changes = {}, [], [], [], {}
        return self.observation

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(name, type(module).__name__, tuple(self._stack))
            self._stack.append(len(self.observation.calls))
            self.observation.calls.append(call)
            with self._noting_failures():
                places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
                call.arguments = [self._argument(place, part) for place, part in places if isinstance(part, Tensor)]
                is_step = len(args) == 2 and isinstance(args[1], int)  # of a strategy that calls steps by `forward`
                for place, part in () if is_step else places:
                    call.arguments += self._inside(place, part)
                call.options = tuple(
                    (k, v) for k, v in kwargs.items() if isinstance(v, bool | int | float | str | None)
                )
                call.reads_labels = any(_is_integer(self.observation.leaves, a.leaf) for a in call.arguments if a.leaf)

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        index = self._stack.pop()
        with self._noting_failures():
            for _, part in walk(output):
                if isinstance(part, Tensor) and part.layout == torch.strided:
                    storage = part.untyped_storage()
                    alive = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # as above
                    self._made[storage._cdata] = (alive, index, part.shape)
                    if holds_logits(part):
                        self.observation.calls[index].outputs.append(part)
            self._note_module(module, args, output)

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Tensors can be of kinds never seen here; a watch that fails is told of, and the user's step goes on."""
        try:
            yield
        except Exception as error:
            self.observation.remarks.append(f"watching failed with {type(error).__name__}: {error}")

    def _argument(self, place: int | str, tensor: Tensor) -> Argument:
        for path, leaf in self.observation.leaves.items():
            if is_same(leaf, tensor):
                cast = tensor.is_floating_point() and not leaf.is_floating_point()
                return Argument(place, path + FLOAT if cast else path, None, tensor.shape != leaf.shape)
        changed = self._path_of(tensor)
        if changed is not None:
            return Argument(place, changed, None, False)
        if tensor.layout == torch.strided:
            made = self._made.get(tensor.untyped_storage()._cdata)
            is_alive = made is not None and not made[0].expired()  # type: ignore[no-untyped-call]  # as above
            if made is not None and is_alive and same_rows(made[2], tensor.shape):
                return Argument(place, None, made[1], made[2] != tensor.shape)
        return Argument(place, None, None, False)

    def _path_of(self, tensor: Tensor) -> str | None:
        """Path of a part of the batch, or of what the step made of one; None if it is neither."""
        for path, leaf in self.observation.leaves.items():
            if leaf is tensor:
                return path
        made, path = self._changes.get(id(tensor), (None, ""))
        return path if made is not None and made() is tensor else None

    def _note_change(self, function: object, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        path = self._path_of(args[0]) if args and isinstance(args[0], Tensor) else None
        change = written(function, args, kwargs) if path is not None else None
        if change is not None and isinstance(result, Tensor) and result is not args[0]:
            self._changes[id(result)] = (ref(result), f"{path}{change}")

    def _inside(self, place: int | str, container: Any) -> list[Argument]:
        """Parts of the batch in a container that is passed on: the batch itself, or a part of it."""
        if isinstance(container, Tensor):
            return []
        parts = [(path, part) for path, part in walk(container) if isinstance(part, Tensor)]
        leaves = {id(leaf): path for path, leaf in self.observation.leaves.items()}
        return [Argument(place, leaves[id(part)], None, False, path) for path, part in parts if id(part) in leaves]

    def _note_function(self, *call: Any) -> None:
        with self._noting_failures():
            if is_change(call[0]):
                self._note_change(*call)
            else:
                self._note_reading(*call)

    def _note_reading(self, function: object, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        read = args[0] if args else kwargs.get("input")
        if not isinstance(read, Tensor):
            return
        if function in _LARGEST:
            self._note_prediction(_LARGEST[function], read, result)
            return
        if function in _ON_THE_WAY:
            if can_be_logits(read) and isinstance(result, Tensor):
                self._on_the_way.append((result, read, _ON_THE_WAY[function]))
                if "softmax" in _ON_THE_WAY[function] and not self._is_inside_network():
                    self._unsure.append(Reading(_ON_THE_WAY[function], read, None, sure=False))
            return
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if isinstance(target, Tensor) and can_be_logits(read):
            self._note_loss(_LOSSES[function], read, target)
        else:
            self.observation.remarks.append(f"{_LOSSES[function]} read {tuple(read.shape)}")

    def _note_prediction(self, by: str, read: Tensor, result: Any) -> None:
        """Classes chosen from scores that are no part of the batch, as one-hot labels are."""
        reduces = not isinstance(result, Tensor) or result.numel() == len(read)
        is_leaf = any(read is leaf for leaf in self.observation.leaves.values())
        if reduces and can_be_logits(read) and read.ndim == 2 and not is_leaf and not self._is_inside_network():
            self._unsure.append(Reading(by, self._predicting(read), None, sure=False))

    def _predicting(self, read: Tensor) -> Tensor:
        """Note scores that a prediction is made of, and what they were made of; as far back as that goes."""
        self.observation.predictions.append(read)
        for result, source, _ in reversed(self._on_the_way):
            if is_same_memory(result, read):
                self.observation.predictions.append(source)
                read = source
        return read

    def _note_loss(self, loss: str, read: Tensor, target: Tensor) -> None:
        """The loss's own input, and what that was made of as far back as the loss undoes it."""
        self.observation.readings.append(Reading(loss, read, target, sure=True))
        for result, source, name in reversed(self._on_the_way):
            if name in _UNDONE.get(loss, ()) and is_same_memory(result, read):
                self.observation.readings.append(Reading(f"{loss} after {name}", source, target, sure=True))
                read = source

    def _note_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Loss modules and metrics, by what they read: scores and labels of the same rows, in this order."""
        if len(args) < 2 or not all(isinstance(value, Tensor) for value in args[:2]) or not can_be_logits(args[0]):
            return
        scores, target = args[:2]
        metric = any(kind.__name__ in ("Metric", "MetricCollection") for kind in type(module).__mro__)
        reduced = isinstance(output, Tensor) and output.ndim <= 1
        if len(target) == len(scores) and (metric or reduced) and as_labels(target) is not None:
            reading = Reading(type(module).__name__, scores, target, sure=not metric)
            (self._unsure if metric else self.observation.readings).append(reading)
            if metric and scores.ndim == 2:
                self._predicting(scores)

    def _is_inside_network(self) -> bool:
        calls = [self.observation.calls[index] for index in self._stack]
        return any(call.name and not call.reads_labels for call in calls)


class _LossMode(TorchFunctionMode):
    """Tells of every call of a loss function, after it, and passes all results through."""

    def __init__(self, note: Callable[[object, Sequence[Any], Mapping[str, Any], Any], None]) -> None:
        super().__init__()
        self._note = note

    # Any: as torch calls it.
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _LOSSES or func in _ON_THE_WAY or func in _LARGEST or is_change(func):
            self._note(func, args, kwargs or {}, result)
        return result


def _is_integer(leaves: Mapping[str, Tensor], path: str) -> bool:
    leaf = leaves.get(split(path)[0])
    return leaf is not None and not leaf.is_floating_point() and leaf.ndim <= 2
