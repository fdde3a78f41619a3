"""Names for the operations of a graph: those of the user's own modules, as their `state_dict` spells them."""

import re

from torch.fx import Node

from qcal.quantization.operators import attribute, kind


def layer_name(node: Node) -> str:
    """`layer1.0.conv2` for what a module of torch computes, `layer1.0.add` for an operation written in a forward.

    Not unique: a module that is called twice gives its name twice. See `Names`.
    """
    if node.op == "placeholder":
        return "input"
    stack = node.meta.get("nn_module_stack") or {}
    path, module_type = next(reversed(stack.values()), ("", ""))
    path = re.sub(r"@\d+", "", path)  # export marks the second call of a module
    type_name = str(module_type)
    is_torchs = type_name.startswith(("torch.nn.", "<class 'torch.nn."))
    if path and is_torchs and "MultiheadAttention" not in type_name:  # that one is many operations
        return path
    weight = node.args[1] if len(node.args) > 1 else None
    target = attribute(weight)
    if target is not None and target.endswith((".weight", "_weight")):
        return target.removesuffix("weight")[:-1]
    return f"{path}.{operation_name(node)}" if path else operation_name(node)


def operation_name(node: Node) -> str:
    """`add` for `aten.add_.Tensor`."""
    operation = kind(node)
    return str(getattr(operation, "__name__", operation)).rpartition(".")[2].rstrip("_")


class Names:
    """Hands out each name once: the second `fc` becomes `fc_1`.

    Example:
        >>> names = Names()
        >>> names.unique("fc"), names.unique("fc"), names.unique("fc")
        ('fc', 'fc_1', 'fc_2')
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """`name`, or with the lowest number after it that makes it new."""
        candidate, number = name, 0
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate
