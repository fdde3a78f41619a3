import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack as active_modes

from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.watch import Watch
from tests.support.steps import make_batch, make_module


def _modes() -> list[Any]:
    return list(active_modes())  # type: ignore[no-untyped-call]  # torch has no types for it


def _state(module: nn.Module) -> list[Any]:
    return [
        {name: len(value) for name, value in vars(part).items() if "hooks" in name and isinstance(value, dict)}
        | {"training": part.training}
        for part in module.modules()
    ]


def test_a_step_under_watch_gives_the_same_and_nothing_stays() -> None:
    module, batch = make_module(), make_batch()
    module.net.train()
    before, weights = _state(module), copy.deepcopy(module.state_dict())
    torch.manual_seed(5)
    plain = (F.dropout(module(batch["x"])), F.cross_entropy(module(batch["x"]), batch["y"]))
    random = torch.rand(3)
    torch.manual_seed(5)
    finder = NetworkFinder()
    finder.start(module, batch, is_discarded=False)
    assert any(part._forward_hooks for part in module.modules())
    watched = (F.dropout(module(batch["x"])), F.cross_entropy(module(batch["x"]), batch["y"]))
    finder.finish(module, batch)
    assert torch.equal(random, torch.rand(3))
    assert torch.equal(plain[0], watched[0])
    assert torch.equal(plain[1], watched[1])
    assert _state(module) == before
    assert _modes() == []
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert finder.attachment is not None


def test_hooks_and_mode_go_when_the_step_raises() -> None:
    module, batch, finder = make_module(), make_batch(), NetworkFinder()
    before = _state(module)
    finder.start(module, batch, is_discarded=True)
    with pytest.raises(RuntimeError, match="size of tensor"):
        F.relu(module.net(batch["x"])) + torch.zeros(3)
    with pytest.raises(RuntimeError):
        module.net(torch.zeros(1, 2))
    finder.stop()
    assert _state(module) == before
    assert _modes() == []
    assert finder.finish(module, batch) is False


def test_activations_live_no_longer_than_they_would() -> None:
    module, batch = make_module(), make_batch()
    watch = Watch(module, batch)
    watch.start()
    with torch.no_grad():
        activation = module.backbone(batch["x"].repeat(1, 1, 2, 2))
        storage: Any = StorageWeakRef(activation.untyped_storage())  # type: ignore[no-untyped-call]  # torch has no types
        assert not storage.expired()
        del activation
    assert storage.expired()
    watch.stop()


def test_what_computes_otherwise_under_a_watch_is_watched_only_where_results_are_discarded() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1, enable_nested_tensor=True)
    module = nn.Sequential(encoder, nn.Flatten(), nn.Linear(32, 3)).eval()
    for is_discarded in (True, False):
        watch = Watch(module, {}, is_discarded=is_discarded)
        watch.start()
        hooked = [name for name, part in module.named_modules() if part._forward_hooks]
        modes = len(_modes())
        watch.stop()
        assert ("0.layers.0" in hooked) == is_discarded
        assert {"", "1", "2"} <= set(hooked)
        assert modes == is_discarded


def test_compiled_modules_carry_no_hooks_inside() -> None:
    module = make_module()
    module.net.compile(backend="eager")
    module.colours = torch.compile(module.colours, backend="eager")  # type: ignore[assignment]  # what users do
    watch = Watch(module, {})
    watch.start()
    hooked = {name for name, part in module.named_modules() if part._forward_hooks}
    modes = _modes()
    watch.stop()
    assert not {name for name in hooked if name.startswith(("net", "colours._orig_mod"))}
    assert {"", "colours", "head"} <= hooked
    assert modes == []
