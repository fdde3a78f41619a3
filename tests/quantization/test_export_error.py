"""A failed export names the user's line and the way out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcal.quantization import prepare
from qcal.quantization.export_error import failed_line
from qcal.quantization.graph import export_graph
from tests.quantization.networks import Forward


def _branches(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
    logits: Tensor = self.fc(x)
    return logits if x.mean() > 0 else -logits


def _counts_on_two_images(self: Any, x: Tensor) -> Tensor:  # Any: as above
    result: Tensor = self.fc(x).view(2, 3)
    return result


def _leaves_torch(self: Any, x: Tensor) -> Tensor:  # Any: as above
    result: Tensor = self.fc(x) * float(x.detach().numpy().sum())
    return result


LINES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {  # Any: as above
    "branch": (_branches, r"in _branches: `return logits if x.mean\(\) > 0 else -logits`"),
    "fixed batch": (_counts_on_two_images, r"for 3 images, shape .* in _counts_on_two_images: `.*\.view\(2, 3\)`"),
    "numpy": (_leaves_torch, r"in _leaves_torch: `result: Tensor = self.fc\(x\) \* float\(x.detach\(\).numpy"),
}


@pytest.mark.parametrize(("function", "line"), LINES.values(), ids=list(LINES))
def test_the_line_of_the_forward_is_named(function: Callable[[Any, Tensor], Tensor], line: str) -> None:  # Any: above
    with pytest.raises(ValueError, match=line) as caught:
        export_graph(Forward(function, fc=nn.Linear(4, 3)), torch.ones(2, 4))
    assert "test_export_error.py" in str(caught.value)
    assert 'pass `placement="modules"`' in str(caught.value)


@pytest.mark.parametrize("function", [_branches, _leaves_torch])
def test_the_way_out_is_one(function: Callable[[Any, Tensor], Tensor]) -> None:  # Any: as above
    network, images = Forward(function, fc=nn.Linear(4, 3)), torch.randn(6, 4)
    plan = prepare(network, images, placement="modules")
    plan.observe(images)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(plan.run("float", images), expected)
    assert 0 < (plan.run("w8a8", images) - expected).norm() < 0.05 * expected.norm()


def test_lines_of_torch_are_not_the_users() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(3, 2)(torch.ones(2, 4))
    line = failed_line(caught.value)
    assert line is not None
    assert "test_export_error.py" in line
