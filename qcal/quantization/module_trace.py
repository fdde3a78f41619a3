"""One run of a network that notes what its modules read and return, and what is computed between them.

For networks that `torch.export` cannot take. What is seen holds for the images of that run: a forward that branches on
its input may do something else on others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qcal.quantization.module_kinds import BATCH_NORMS, LAYERS
from qcal.quantization.operators import KEEPS_SCALE, aten

# What scale-keeping operations become below autograd, where the run is watched; views are recognised as such.
_MOVES_NUMBERS = KEEPS_SCALE | {aten._unsafe_view, aten._reshape_copy, aten.copy, aten.copy_, aten._to_copy, aten.fill_}


@dataclass(frozen=True)
class Call:
    """One call of a module of the network.

    Args:
        name: Qualified name of the module.
        module: The module.
        read: The first tensor it was given; None if there was none.
        returned: The first tensor it returned; None if there was none.
        version: How often `returned` had been written to when it was returned.
    """

    name: str
    module: nn.Module
    read: Tensor | None
    returned: Tensor | None
    version: int


@dataclass
class Trace:
    """What a run did, in its order.

    Attributes:
        calls: Calls of modules that have no modules of their own that matter (see `is_opaque`).
        operations: Arithmetic in the forward of the other modules: the module's name and the operation's.
        output: What the network returned.
    """

    calls: list[Call] = field(default_factory=list)
    operations: list[tuple[str, str]] = field(default_factory=list)
    output: object = None

    def calls_of(self, module: nn.Module) -> list[Call]:
        """The calls of one module."""
        return [call for call in self.calls if call.module is module]


def trace(network: nn.Module, x: Tensor) -> Trace:
    """Run `network` on `x` and note what it does; no hooks are left behind.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(call.name, type(call.module).__name__) for call in trace(net, torch.randn(2, 4)).calls]
        [('0', 'Linear'), ('1', 'ReLU'), ('2', 'Linear')]
    """
    seen = Trace()
    running: list[str] = []  # names of the modules that are being run, outermost first
    opaque: set[str] = {name for name, module in network.named_modules() if is_opaque(module)}
    with _hooks(network, seen, running, opaque), _Operations(seen, running, opaque):
        seen.output = network(x)
    return seen


def is_opaque(module: nn.Module) -> bool:
    """Whether a module is one operation to the placement: a layer, attention, or a module of torch without children."""
    is_torchs = type(module).__module__.startswith("torch.nn.")
    is_leaf = is_torchs and not any(module.children())
    return is_leaf or isinstance(module, (*LAYERS, *BATCH_NORMS, nn.MultiheadAttention))


@contextmanager
def _hooks(network: nn.Module, seen: Trace, running: list[str], opaque: set[str]) -> Iterator[None]:
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(_enter(running, name), prepend=True))
        handles.append(module.register_forward_hook(_leave(seen, running, name, opaque), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(running: list[str], name: str) -> Callable[..., None]:
    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        running.append(name)

    return enter


def _leave(seen: Trace, running: list[str], name: str, opaque: set[str]) -> Callable[..., None]:
    def leave(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        running.pop()
        if name in opaque:
            read, returned = first_tensor([*args, *kwargs.values()]), first_tensor(output)
            seen.calls.append(Call(name, module, read, returned, 0 if returned is None else returned._version))

    return leave


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
    """Notes floating arithmetic outside opaque modules."""

    def __init__(self, seen: Trace, running: list[str], opaque: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._seen = seen
        self._running = running
        self._opaque = opaque

    def __torch_dispatch__(  # Any: whatever an operation takes and returns
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inside = self._running[-1] if self._running else ""
        if not any(name in self._opaque for name in self._running) and _is_arithmetic(func, args, result):
            self._seen.operations.append((inside, func.overloadpacket.__name__.strip("_")))
        return result


def _is_arithmetic(func: Any, args: tuple[Any, ...], result: object) -> bool:  # Any: as above
    value = first_tensor(result)
    if value is None or not value.is_floating_point() or first_tensor(args) is None:
        return False
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return not is_view and func.overloadpacket not in _MOVES_NUMBERS


def first_tensor(values: object) -> Tensor | None:
    """The first tensor in (nested) sequences and dictionaries."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return next((found for found in map(first_tensor, values) if found is not None), None)
    return None
