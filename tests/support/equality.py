"""Compare what checkpoints nest."""

from typing import Any

import torch
from torch import Tensor


def assert_equal(left: Any, right: Any) -> None:  # Any: whatever a checkpoint nests
    """The two are of one structure, and their tensors the same bit for bit."""
    if isinstance(left, Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right
