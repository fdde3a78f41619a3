"""The residual networks of He et al. (2016, section 4.2) for small images, with projection shortcuts (option B).

The paper's own CIFAR networks use option A (zero-padded, parameter-free shortcuts). Option B is what most published
CIFAR weights, and those of Xia et al. (2021), were trained with; parameter names follow them, so that their state dicts
load strictly.
"""

from typing import cast

from torch import Tensor, nn

_STEM_AND_HEAD = 2  # weighted layers outside the blocks: the first convolution and the last linear layer
_LAYERS_PER_STEP = 6  # three stages, two convolutions a block
_NAMED_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


class CifarResNet(nn.Module):
    """Return the logits of a residual network with `depth` weighted layers for images of about 32 x 32 pixels.

    A 3 x 3 convolution, then three stages of `n = (depth - 2) / 6` basic blocks with `width`, `2 width` and `4 width`
    channels; the second and third stage start with stride 2 and a 1 x 1 projection shortcut. Global average pooling and
    one linear layer follow, so that any image of at least 1 x 1 pixel is accepted; under 16 x 16 the last stage sees
    fewer than 4 x 4 positions.

    Args:
        depth: Number of weighted layers, `6 n + 2` with n >= 1. 20, 32, 44, 56 and 110 are the paper's; 8 is enough for
            8 x 8 digits.
        num_classes: Number of logits C, at least 2.
        in_channels: Channels of the images: 3 for colour, 1 for grey.
        width: Channels of the first stage. 16 is the paper's.

    Raises:
        ValueError: `depth` is not `6 n + 2`, or one of the other arguments is too small.

    Example:
        >>> import torch
        >>> model = CifarResNet(depth=20, num_classes=100)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
        >>> sum(parameter.numel() for parameter in model.parameters())
        278324

    References:
        K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2 and
        (option B) section 4.1. K. He et al., *Delving Deep into Rectifiers*, ICCV 2015, equation 10 (the
        initialisation, on the fan-out).
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth)
        _check_at_least("num_classes", num_classes, 2)
        _check_at_least("in_channels", in_channels, 1)
        _check_at_least("width", width, 1)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(N, in_channels, H, W)` to logits `(N, num_classes)`."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return cast(Tensor, self.fc(self.avgpool(features).flatten(1)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`.

    The shortcut is the identity, or a strided 1 x 1 convolution with batch norm where the shape changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the projection.

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, ceil(H / stride), ceil(W / stride))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return cast(Tensor, self.relu(self.bn2(self.conv2(out)) + shortcut))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))


def _blocks_per_stage(depth: int) -> int:
    blocks, rest = divmod(depth - _STEM_AND_HEAD, _LAYERS_PER_STEP)
    if rest != 0 or blocks < 1:
        raise ValueError(
            f"`depth` must be 6 n + 2 with n >= 1 ({', '.join(map(str, _NAMED_DEPTHS))}, ...), got {depth}. "
            f"Take the nearest allowed one, {_LAYERS_PER_STEP * max(1, round((depth - 2) / 6)) + _STEM_AND_HEAD}."
        )
    return blocks


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}, got {value}. Set it to what the data has."
        )
