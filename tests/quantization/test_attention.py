"""Attention written out computes the same, and what its products read is quantized."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization import Plan, prepare
from tests.quantization.networks import Forward

WIDTH, LENGTH = 8, 5


def _heads(x: Tensor) -> Tensor:
    return x.reshape(-1, LENGTH, 2, WIDTH // 2).transpose(1, 2)


def _attention(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> nn.Module:
    """A network whose only attention is `attend(query, key, value)`, each (N, 2 heads, LENGTH, WIDTH / 2)."""

    def forward(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        mixed = attend(*(_heads(layer(x)) for layer in (self.q, self.k, self.v)))
        logits: Tensor = self.fc(self.out(mixed.transpose(1, 2).flatten(2))[:, 0])
        return logits

    layers = {name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
    return Forward(forward, **layers, fc=nn.Linear(WIDTH, 3)).eval()


def _plan(network: nn.Module) -> Plan:
    images = torch.randn(6, LENGTH, WIDTH)
    plan = prepare(network, images)
    plan.observe(images)
    with torch.no_grad():
        for count in (1, 2, 6):
            torch.testing.assert_close(plan.run("float", images[:count]), network(images[:count]))
        expected = network(images)
    assert 0 < (plan.run("w8a8", images) - expected).norm() < 0.1 * expected.norm()
    return plan


BIAS = torch.randn(LENGTH, LENGTH)
VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": F.scaled_dot_product_attention,
    "scale": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.7),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "mask of booleans": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS.abs() < 2),
    "mask of numbers": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS),
    "mask of numbers with infinity": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.zeros(LENGTH, LENGTH).masked_fill(BIAS > 1.5, -math.inf)
    ),
    "by hand": lambda q, k, v: F.softmax(q @ k.transpose(-2, -1) / math.sqrt(WIDTH // 2), -1) @ v,
}


@pytest.mark.parametrize("attend", VARIANTS.values(), ids=list(VARIANTS))
def test_attention_computes_the_same_and_its_products_read_integers(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    plan = _plan(_attention(attend))
    names = [quantizer.name for quantizer in plan.quantizers]
    assert sorted(names) == sorted(["input", "q", "k", "v", "softmax", "matmul", "out", "fc"])
    in_float = {op.operation: op.reason for op in plan.float_operations}
    assert in_float.pop("softmax") == "no integer form"
    assert set(in_float.values()) <= {"scores of a softmax"}  # a mask


def test_dropout_in_attention_is_off_in_eval_mode() -> None:
    network = Forward(
        lambda m, x: m.fc(m.attention(x, x, x, need_weights=False)[0][:, 0]),
        attention=nn.MultiheadAttention(WIDTH, 2, dropout=0.3, batch_first=True),
        fc=nn.Linear(WIDTH, 3),
    )
    plan = _plan(network.eval())
    assert [op.operation for op in plan.float_operations] == ["softmax"]


def test_multi_head_attention_that_returns_its_weights_is_taken_apart_too() -> None:
    network = Forward(
        lambda m, x: m.fc(m.attention(x, x, x)[0][:, 0]),
        attention=nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        fc=nn.Linear(WIDTH, 3),
    )
    plan = _plan(network.eval())
    assert [op.operation for op in plan.float_operations] == ["softmax"]


def test_the_fast_path_of_a_transformer_layer_is_not_taken() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    network = Forward(lambda m, x: m.fc(m.layer(x)[:, 0]), layer=layer, fc=nn.Linear(WIDTH, 3)).eval()
    plan = _plan(network)
    assert len(plan.layers) == 5  # projections in and out, two linear layers, the head
    assert {op.operation for op in plan.float_operations} == {"softmax", "layer_norm"}


def test_grouped_queries_are_left_as_they_are_and_reported() -> None:
    network = _attention(lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True))
    plan = _plan(network)
    assert [op.operation for op in plan.float_operations] == ["scaled_dot_product_attention"]
