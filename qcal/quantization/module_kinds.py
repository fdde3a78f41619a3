"""What the modules of torch mean to quantization without a graph; `operators` says it of the operations of a graph."""

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Their output is a tensor of its own scale. ReLU keeps the scale of what it reads, and so do pooling of maxima and
# reshaping, which are modules, too, but hold no arithmetic.
ACTIVATIONS = (
    nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
KEEPS_SCALE = (
    nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, nn.UpsamplingNearest2d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
)  # fmt: skip


def has_own_forward(module: nn.Module) -> bool:
    """Whether a layer computes something else than the class of torch it derives from."""
    base = next(kind for kind in LAYERS if isinstance(module, kind))
    return type(module).forward is not base.forward or "forward" in vars(module)


def channel_axis_of(layer: nn.Module) -> int:
    """The axis of a layer's weight that runs over its output channels."""
    return 1 if isinstance(layer, TRANSPOSED_CONVOLUTIONS) else 0


def in_groups(layer: nn.Module) -> bool:
    """Whether a layer is a transposed convolution with groups, whose output channels have no axis of their own."""
    return isinstance(layer, TRANSPOSED_CONVOLUTIONS) and layer.groups != 1


def has_plain_weight(layer: nn.Module) -> bool:
    """Whether the weight is a tensor of the layer and not computed from others before each run."""
    weight = layer._parameters.get("weight", layer._buffers.get("weight"))
    return isinstance(weight, Tensor) and not layer._forward_pre_hooks
