"""How many images to compute at a time, so that what a layer reads and writes stays in the caches of a processor.

A batch of 256 CIFAR images is 17 MB after each layer of a ResNet20: every element-wise step then waits for memory, and
the allocator hands the pages back and fetches them again. In portions the same batch takes a quarter less time, and
MobileNetV2 at 224 x 224 half as long. Images do not depend on each other, so the logits are the same up to the rounding
of float sums.

The weights are read anew for each portion, and those of a large network also made anew (see `made_weights`). So a
portion is at least so many images that what it stores is twice their size: 16 images of 224 x 224 take a Wide
ResNet-50-2, whose weights are made, 4.0 s one by one, and 1.4 s in portions of 7.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from qcal.quantization.operators import BATCH_NORMS, argument, kind
from qcal.quantization.quantizer import Quantizer

# Bytes that the stored tensors of a portion take on average. Best at 1 to 2.4 MB for ResNet20 and MobileNetV2 at 32, 64
# and 224 pixels, on a processor with 1 MB of second-level and 32 MB of shared third-level cache.
PORTION_BYTES = 3 << 19
_FLOAT_BYTES = 4


def images_at_a_time(network: nn.Module, quantizers: Sequence[Quantizer], device: torch.device) -> int | None:
    """The size of a portion; None where a batch must or should stay whole.

    Whole stays a batch on an accelerator, which wants all of it, and one of a network that normalises by the statistics
    of its batch, or that has no graph to tell.

    Args:
        network: A prepared network.
        quantizers: Its quantizers; their shapes tell how much an image takes.
        device: Where it is computed.

    Example:
        >>> from torch import nn, randn
        >>> from qcal.quantization import prepare
        >>> plan = prepare(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Flatten(), nn.Linear(16384, 2)),
        ...                randn(2, 3, 32, 32))
        >>> images_at_a_time(plan.network, plan.quantizers, plan.device)
        60
    """
    if device.type != "cpu" or not isinstance(network, GraphModule) or _mixes_images(network.graph):
        return None
    sizes = [math.prod(quantizer.shape) * _FLOAT_BYTES for quantizer in quantizers]
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    stored = max(1, sum(sizes))
    return max(1, PORTION_BYTES * len(sizes) // stored, math.ceil(2 * weights / stored))


def _mixes_images(graph: Graph) -> bool:
    return any(kind(node) in BATCH_NORMS and argument(node, "training") is not False for node in graph.nodes)
