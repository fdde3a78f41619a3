"""Copies of parts of somebody else's module, which share with it nothing that running them could change."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

from qcal.callbacks.images_to_logits import FLATTEN, REGISTRIES, SELF, Way, has_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def copy_parts(pl_module: nn.Module, way: Way) -> nn.Module:
    """Copies of the submodules of a way under the names they have, in a module that holds nothing else.

    A copy of the LightningModule itself (`self`) shares with it the trainer and everything else that is no module,
    parameter or buffer; what it would log goes nowhere.

    Args:
        pl_module: The user's module; unchanged.
        way: What is called.

    Raises:
        AttributeError: There is no such submodule.
    """
    root = _copy_lightning_module(pl_module, {}) if SELF in way.steps else _copy_submodules(pl_module, way)
    if not way.hooks:
        for part in root.modules():
            _take_off_hooks(part)
    return root


def has_foreign_hooks(pl_module: nn.Module) -> bool:
    """Whether a project hung hooks on its forward passes, besides those of torch that make weights."""
    hooks = [hook for part in pl_module.modules() for name in _HOOKS for hook in vars(part).get(name, {}).values()]
    return any(_is_foreign(hook) for hook in hooks)


def with_hooks(ways: Iterable[Way], pl_module: nn.Module) -> Iterator[Way]:
    """Ways without the project's hooks, whose results a copy has no use for, then with them."""
    tried = []
    for way in ways:
        tried.append(way)
        yield way
    if has_foreign_hooks(pl_module):
        yield from (replace(way, hooks=True) for way in tried)


def _copy_submodules(pl_module: nn.Module, way: Way) -> nn.Module:
    root = nn.Module()
    # The user's module itself stays where a submodule points to it by some other way than registration.
    memo: dict[int, Any] = {id(pl_module): pl_module, **_shared(pl_module), **_computed(pl_module)}
    for name in dict.fromkeys(way.steps):
        if name != FLATTEN or has_module(pl_module, name):
            _place(root, name, _copied(pl_module.get_submodule(name), memo, pl_module))
    _take_out_of_compile(root)
    return root


def _copy_lightning_module(pl_module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy that does not drag along the trainer, its loops, loggers and data."""
    duplicate = type(pl_module).__new__(type(pl_module))
    duplicate.__dict__.update(pl_module.__dict__)
    memo.update({id(pl_module): duplicate, **_shared(pl_module), **_computed(pl_module)})
    for name, value in pl_module.__dict__.items():
        if name in REGISTRIES or _holds_modules(value):
            duplicate.__dict__[name] = _copied(value, memo, pl_module)
        elif isinstance(value, list | dict | set):
            duplicate.__dict__[name] = _nested(value)
        elif isinstance(value, MethodType) and value.__self__ is pl_module:
            duplicate.__dict__[name] = MethodType(value.__func__, duplicate)
    _forget_compiled_steps(duplicate)
    for verb in ("log", "log_dict"):
        duplicate.__dict__[verb] = _say_nothing
    duplicate.__dict__["__deepcopy__"] = partial(_copy_lightning_module, duplicate)
    _take_out_of_compile(duplicate)
    return duplicate.eval()


def _copied(value: Any, memo: dict[int, Any], pl_module: nn.Module) -> Any:
    """A deep copy of a part (Any: of whatever kind); what cannot be copied (a lock, an open file) is shared."""
    attempt = dict(memo)  # one that fails leaves halves of copies in it
    try:
        duplicate = copy.deepcopy(value, attempt)
    except Exception:  # of an attribute of a stranger's module, whatever that refuses with
        parts = [module for module in pl_module.modules() if module is not pl_module]  # that has been seen to
        uncopyable = {part: names for part in parts if (names := _uncopyable(part, memo))}
        held = [vars(module)[name] for module, names in uncopyable.items() for name in names]
        attempt = memo | {id(each): _shallow(each) for each in held}
        duplicate = copy.deepcopy(value, attempt)
        for module, names in uncopyable.items():
            if id(module) in attempt:
                twin = attempt[id(module)]
                twin.__dict__["__deepcopy__"] = partial(_copy_sharing, twin, names)  # it will be copied in its turn
    memo.update(attempt)
    return duplicate


def _uncopyable(module: nn.Module, memo: dict[int, Any]) -> tuple[str, ...]:
    """Names of the attributes of a submodule that cannot be copied."""
    names = []
    for name, value in vars(module).items():
        if name not in REGISTRIES and not isinstance(value, bool | int | float | str | Tensor | type(None)):
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # as above
                names.append(name)
    return tuple(names)


def _shallow(value: Any) -> Any:
    """A container of its own, with what is in it shared; anything else (Any: of whatever kind) itself."""
    return copy.copy(value) if isinstance(value, list | dict | set) else value


def _nested(value: Any) -> Any:
    """Containers of its own to any depth, with all else shared: a history that `forward` adds to, not its tensors."""
    duplicate = _shallow(value)
    if isinstance(duplicate, dict):
        duplicate.update({key: _nested(part) for key, part in value.items()})
    elif isinstance(duplicate, list):
        duplicate[:] = [_nested(part) for part in value]
    return duplicate


def _is_foreign(hook: object) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith("torch.")


def _take_off_hooks(part: nn.Module) -> None:
    """Remove a project's hooks from a copy: they would write what a copy computes to where the project reads it."""
    for name in _HOOKS:
        hooks = vars(part).get(name, {})
        for key in [key for key, hook in hooks.items() if _is_foreign(hook)]:
            for kind in ("", "_with_kwargs", "_always_called"):
                vars(part).get(name + kind, {}).pop(key, None)


def _copy_sharing(module: nn.Module, names: tuple[str, ...], memo: dict[int, Any]) -> nn.Module:
    """A copy that shares the attributes with these names, and whose copies do so too."""
    duplicate = type(module).__new__(type(module))
    memo[id(module)] = duplicate
    for name, value in vars(module).items():
        if name != "__deepcopy__":
            duplicate.__dict__[name] = _shallow(value) if name in names else copy.deepcopy(value, memo)
    duplicate.__dict__["__deepcopy__"] = partial(_copy_sharing, duplicate, names)
    return duplicate


def _forget_compiled_steps(lightning_module: nn.Module) -> None:
    """Lightning sets a compiled module's `forward` and steps on the instance; in a copy they would run the original."""
    if lightning_module.__dict__.get("_compiler_ctx"):
        for verb in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
            lightning_module.__dict__.pop(verb, None)
        lightning_module.__dict__["_compiler_ctx"] = None


def _take_out_of_compile(root: nn.Module) -> None:
    """Put the modules that `torch.compile` wrapped in the place of their wrappers."""
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            inner = getattr(child, "_orig_mod", None)
            if isinstance(inner, nn.Module):
                parent._modules[name] = inner


def _holds_modules(value: object) -> bool:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(part, nn.Module) for part in held)


def _say_nothing(*_args: object, **_kwargs: object) -> None:
    """In the place of `log`: what a copy computes is none of the user's metrics."""


def _shared(pl_module: nn.Module) -> dict[int, Any]:
    """Memo of what a copy shares: whatever the LightningModule itself points to, above all its trainer."""
    plain = (nn.Module, Tensor, list, dict, set, tuple)
    return {id(value): value for value in vars(pl_module).values() if not isinstance(value, plain)}


def _computed(pl_module: nn.Module) -> dict[int, Any]:
    """Memo of tensors with a history (a remembered activation), which cannot be copied; their values can."""
    return {
        id(value): value.detach().clone()
        for module in pl_module.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if not isinstance(getattr(root, parent, None), nn.Module):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(last, module)
