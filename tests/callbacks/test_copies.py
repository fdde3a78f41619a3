"""Copies of parts of a stranger's module: what cannot be copied is shared, what they do leaves no trace."""

import copy
import threading
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from qcal.callbacks.copies import copy_parts, has_foreign_hooks
from qcal.callbacks.images_to_logits import Way


class Holding(nn.Module):
    """A layer that holds what no deep copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lock = nn.Linear(2, 3), threading.Lock()
        self.steps, self.locks = (step for step in range(3)), [threading.Lock()]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            logits: Tensor = self.fc(x)
        return logits


class Remembering(LightningModule):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.history: dict[str, list[float]] = {"means": []}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        self.history["means"].append(logits.detach().mean().item())
        return logits


@pytest.mark.parametrize("step", ["layer", "self"])
def test_what_cannot_be_copied_is_shared_by_all_copies(step: str) -> None:
    holding = Holding()
    module = Remembering(holding)
    before = set(vars(holding))
    first: Any = copy_parts(module, Way((step,)))
    for duplicate in (first, copy.deepcopy(first), copy.deepcopy(copy.deepcopy(first.layer))):
        layer = getattr(duplicate, "layer", duplicate)
        assert layer.lock is holding.lock
        assert layer.locks is not holding.locks
        assert layer.fc.weight is not holding.fc.weight
        assert torch.equal(layer(torch.ones(1, 2)), holding(torch.ones(1, 2)))
    assert set(vars(holding)) == before


def test_a_copy_adds_nothing_to_a_history_of_the_module() -> None:
    module = Remembering(nn.Linear(2, 3))
    duplicate: Any = copy_parts(module, Way(("self",)))
    duplicate(torch.ones(1, 2))
    assert len(duplicate.history["means"]) == 1
    assert module.history == {"means": []}


@pytest.mark.parametrize("step", ["layer", "self"])
def test_hooks_of_a_project_do_not_run_in_copies_unless_they_are_wanted(step: str) -> None:
    module, seen = Remembering(nn.Linear(2, 3)), list[Tensor]()
    assert not has_foreign_hooks(module)
    module.layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    module.layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    assert has_foreign_hooks(module)
    for hooks, count in ((False, 0), (True, 2)):
        duplicate: Any = copy_parts(module, Way((step,), hooks=hooks))
        duplicate.layer(torch.ones(1, 2))
        assert len(seen) == count
    assert len(module.layer._forward_hooks) == len(module.layer._forward_pre_hooks) == 1


def test_hooks_of_torch_that_make_weights_stay() -> None:
    module = Remembering(spectral_norm(nn.Linear(2, 3))).eval()
    assert not has_foreign_hooks(module)
    duplicate: Any = copy_parts(module, Way(("layer",))).eval()
    assert len(duplicate.layer._forward_pre_hooks) == 1
    assert torch.equal(duplicate.layer(torch.ones(1, 2)), module.layer(torch.ones(1, 2)))
