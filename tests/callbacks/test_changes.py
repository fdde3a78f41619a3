"""Changes of images are written as Python and done again, for batches of every size, or not written at all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qcal.callbacks.batches import read
from qcal.callbacks.changes import changed, is_change, split, written

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    ".float()": lambda x: x.float(),
    ".double()": lambda x: x.to(torch.float64),
    ".half()": lambda x: x.to("cpu", dtype=torch.float16),
    ".div(255)": lambda x: x / 255,
    ".sub(0.5)": lambda x: x - 0.5,
    ".mul(2)": lambda x: 2 * x,
    ".add(1, alpha=2)": lambda x: x.add(1, alpha=2),
    ".unsqueeze(1)": lambda x: torch.unsqueeze(x, 1),
    ".permute(0, 3, 1, 2)": lambda x: x.permute(0, 3, 1, 2),
    ".permute((0, 3, 1, 2))": lambda x: torch.permute(x, (0, 3, 1, 2)),
    ".transpose(-1, -2)": lambda x: x.transpose(-1, -2),
    ".repeat(1, 1, 1, 3)": lambda x: x.repeat(1, 1, 1, 3),
    ".expand(-1, 2, -1, -1)": lambda x: x[:, :1].expand(-1, 2, -1, -1),
    ".flatten(1)": lambda x: torch.flatten(x, 1),
}

# Rows would change with the batch, or the numbers depend on more than what is written.
NOT_WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "rows moved": lambda x: x.permute(1, 0, 2, 3),
    "rows moved from the back": lambda x: x.transpose(-4, 1),
    "an axis before the rows": lambda x: x.unsqueeze(0),
    "rows merged": lambda x: x.flatten(0, 1),
    "all merged": lambda x: x.flatten(),
    "rows lost in a batch of one": lambda x: x.squeeze(),
    "rows repeated": lambda x: x.repeat(2, 1, 1, 1),
    "as many rows as now": lambda x: x[:1].expand(4, -1, -1, -1),
    "another tensor": lambda x: x - x.mean(),
    "a type like another's": lambda x: x.to(torch.zeros(1)),
    "whole numbers": lambda x: x.to(torch.int32),
    "rounded": lambda x: x.div(2, rounding_mode="floor"),
    "no such function": lambda x: x.relu(),
}


def _last_call(change: Callable[[Tensor], Tensor], images: Tensor) -> str | None:
    """What is written of the last function that a change calls."""
    calls: list[str | None] = []

    # Any: as torch calls it.
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not torch.Tensor.__getitem__:
                calls.append(written(func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with Mode():
        change(images)
    return calls[-1]


@pytest.mark.parametrize("text", CHANGES)
def test_what_is_written_does_the_same_again(text: str) -> None:
    images = torch.arange(4 * 2 * 3 * 5).reshape(4, 2, 3, 5)
    assert _last_call(CHANGES[text], images) == text
    for batch in (images, images[:1]):
        source = batch[:, :1] if "expand" in text else batch
        assert torch.equal(changed(source, text), CHANGES[text](batch))
    assert is_change(torch.Tensor.div)
    assert not is_change(torch.Tensor.relu)


@pytest.mark.parametrize("style", NOT_WRITTEN)
def test_what_is_not_the_same_for_every_batch_is_not_written(style: str) -> None:
    assert _last_call(NOT_WRITTEN[style], torch.ones(4, 2, 3, 5)) is None


def test_a_path_is_split_from_the_changes_at_its_end() -> None:
    assert split("batch['a.b()'][0]") == ("batch['a.b()'][0]", "")
    assert split("batch_to_inputs(batch)[0].float()") == ("batch_to_inputs(batch)[0]", ".float()")
    assert split("batch.image.permute((0, 2, 1)).div(2)") == ("batch.image", ".permute((0, 2, 1)).div(2)")
    images = torch.ones(2, 3)
    assert torch.equal(read({"x": (images, 1)}, "['x'][0].mul(3).unsqueeze(1)"), torch.full((2, 1, 3), 3.0))
    with pytest.raises(ValueError, match=r"may end in calls of float, .*, got system"):
        changed(images, ".system('ls')")
