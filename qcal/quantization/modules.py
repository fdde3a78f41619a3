"""Placement without a graph, for networks that `torch.export` cannot take: quantizers at the boundaries of modules.

The network runs as it is written, so its forward may branch and loop as it likes. Quantized are

- the input and the logits;
- the output of every convolution and linear layer, of every batch norm that stays, of every activation module other
  than ReLU (which keeps the scale of what it reads), and of every `nn.MultiheadAttention`;
- the weights of these layers.

What a graph would show and this does not: a layer is quantized at its own output, because nobody knows whether a ReLU
alone reads it (a graph quantizes after the ReLU, with half the step); what a forward computes between its modules
(adds, concatenations, functions) stays in float, and so does the inside of attention. Both are reported. A module that
is called several times has one quantizer for all its calls.
"""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qcal.quantization.fold import Unfolded
from qcal.quantization.module_fold import fold_modules
from qcal.quantization.module_kinds import (
    ACTIVATIONS,
    BATCH_NORMS,
    KEEPS_SCALE,
    LAYERS,
    channel_axis_of,
    has_own_forward,
    has_plain_weight,
    in_groups,
)
from qcal.quantization.module_trace import Call, Trace, trace
from qcal.quantization.names import Names
from qcal.quantization.operators import get_tensor, set_tensor
from qcal.quantization.placement import FloatOperation, Layer, Placement, StoredTensor
from qcal.quantization.quantizer import Quantizer

_STORED = (*LAYERS, *BATCH_NORMS, *ACTIVATIONS, nn.MultiheadAttention)


class ModuleNetwork(nn.Module):
    """A network with quantizers at its input, its output and behind its modules.

    Args:
        network: The network, in eval mode, folded. It is kept, and gets hooks.
        shape: Shape of one image.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.input = Quantizer("input", shape)
        self.quantizers = nn.ModuleList()
        self.output: Quantizer | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of images (N, ...), which are left alone whatever the network does to its input."""
        logits: Tensor = self.network(self.input(x.clone()))
        return logits if self.output is None else self.output(logits)

    def quantize_output_of(self, module: nn.Module, quantizer: Quantizer) -> None:
        """Let what `module` returns pass a quantizer."""
        self.quantizers.append(quantizer)
        module.register_forward_hook(_Passes(quantizer))


class _Passes:
    """A hook that sends the first tensor of a module's output through a quantizer. An object, so that it is copied."""

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer

    def __call__(self, module: nn.Module, args: object, output: object) -> object:
        if isinstance(output, tuple):
            return (self._quantizer(output[0]), *output[1:])
        return self._quantizer(output)


def place_at_modules(network: nn.Module, example: Tensor) -> tuple[ModuleNetwork, Placement, list[Unfolded]]:
    """Fold what can be folded and put quantizers at the boundaries of modules.

    Args:
        network: A float copy of the user's network in eval mode (`graph.float_copy`); it is changed.
        example: Images that show which modules are called, and how.

    Raises:
        ValueError: no convolution or linear layer is called on `example`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        >>> with torch.no_grad():
        ...     _, placement, _ = place_at_modules(net, torch.randn(2, 4))
        >>> [(q.name, q.is_output) for q in placement.quantizers]
        [('input', False), ('0', False), ('2', True)]
    """
    _fix_parametrizations(network)
    unfolded = fold_modules(network, example, trace(network, example.clone()))
    seen = trace(network, example.clone())  # folded
    wrapped = ModuleNetwork(network, tuple(example.shape[1:]))
    layers, in_float = _layers(wrapped, seen)
    if not layers:
        raise ValueError(
            "`model` must have a convolution or linear layer to quantize, found none that its forward calls. "
            "Pass the part of the network that produces the logits."
        )
    stored = _stored(wrapped, seen, {layer.name for layer in layers}, is_image=example.is_floating_point())
    in_float += _uncalled(network, seen) + _operations(seen)
    return wrapped, Placement(tuple(stored), tuple(layers), tuple(in_float), "modules"), unfolded


def _fix_parametrizations(network: nn.Module) -> None:
    """Make weights that are computed from parameters (weight norm, orthogonality) the tensors they are.

    Not by torch's `remove_parametrizations`: that takes the property off the class, which copies of a module share, and
    so would break the user's network.
    """
    for module in list(network.modules()):
        if parametrize.is_parametrized(module) and isinstance(module.parametrizations, nn.ModuleDict):
            values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
            module.__class__ = type(module).__bases__[0]  # the class it had before it was parametrized
            del module.parametrizations
            for name, value in values.items():
                module.register_buffer(name, value)


def _layers(wrapped: ModuleNetwork, seen: Trace) -> tuple[list[Layer], list[FloatOperation]]:
    """The layers that were called and have quantizable weights, and those without; in the order of their first call."""
    layers, in_float = [], []
    for name, module in _called(seen):
        if isinstance(module, nn.MultiheadAttention):
            layers += _attention_layers(wrapped, name, module)
            in_float.append(FloatOperation(name, "attention", "computed inside one module, placed without a graph"))
            if not module._qkv_same_embed_dim:
                in_float.append(FloatOperation(name, "linear", "projections of other widths that share one bias"))
        elif isinstance(module, LAYERS):
            reason = _obstacle(module)
            if reason is None:
                layers.append(_layer(wrapped, name, f"network.{name}.weight", f"network.{name}.bias", module))
            else:
                in_float.append(FloatOperation(name, type(module).__name__, reason))
    return layers, in_float


def _obstacle(layer: nn.Module) -> str | None:
    if has_own_forward(layer) or not has_plain_weight(layer):
        return "it computes its weight in its forward pass"
    return "weights of a transposed convolution in groups" if in_groups(layer) else None


def _attention_layers(wrapped: ModuleNetwork, name: str, attention: nn.MultiheadAttention) -> list[Layer]:
    """The projections in front of attention and behind it."""
    names = ("in_proj", "out_proj") if attention._qkv_same_embed_dim else ("out_proj",)
    targets = {"in_proj": f"network.{name}.in_proj_", "out_proj": f"network.{name}.out_proj."}
    return [_layer(wrapped, f"{name}.{n}", f"{targets[n]}weight", f"{targets[n]}bias", attention) for n in names]


def _layer(wrapped: ModuleNetwork, name: str, weight: str, bias: str, module: nn.Module) -> Layer:
    """A layer with a bias of its own; one of zeros where it had none."""
    axis = channel_axis_of(module)
    owner, _, leaf = bias.rpartition(".")
    if getattr(wrapped.get_submodule(owner), leaf) is None:
        values = get_tensor(wrapped, weight)
        set_tensor(wrapped, bias, values.new_zeros(values.shape[axis]))
    return Layer(name, weight, axis, bias, name)


def _stored(wrapped: ModuleNetwork, seen: Trace, layers: set[str], *, is_image: bool) -> list[StoredTensor]:
    """Put the quantizers in. Who reads what they store is unknown, so anything may."""
    names = Names()
    logits = _logits_call(seen)
    stored = []
    if is_image:
        stored.append(StoredTensor(wrapped.input, None, (), read_elsewhere=True))
        names.unique("input")
    for name, module in _called(seen):
        if not isinstance(module, _STORED):
            continue
        is_output = logits is not None and module is logits.module
        returned = seen.calls_of(module)[0].returned
        shape = () if returned is None else tuple(returned.shape[1:])
        quantizer = Quantizer(names.unique(name), shape, is_output=is_output, inplace=isinstance(module, LAYERS))
        wrapped.quantize_output_of(module, quantizer)
        stored.append(StoredTensor(quantizer, name if name in layers else None, (), read_elsewhere=True))
    if logits is None and isinstance(seen.output, Tensor):
        wrapped.output = Quantizer(names.unique("output"), tuple(seen.output.shape[1:]), is_output=True)
        stored.append(StoredTensor(wrapped.output, None, (), read_elsewhere=True))
    return stored


def _logits_call(seen: Trace) -> Call | None:
    """The only call of a quantized module whose numbers are the logits, perhaps in another shape."""
    for call in seen.calls:
        value, output = call.returned, seen.output
        if not (isinstance(call.module, _STORED) and value is not None and isinstance(output, Tensor)):
            continue
        is_same = value.data_ptr() == output.data_ptr() and value.numel() == output.numel()
        if is_same and value._version == call.version and len(seen.calls_of(call.module)) == 1:
            return call
    return None


def _called(seen: Trace) -> list[tuple[str, nn.Module]]:
    """The modules of a run by name, each once."""
    return list({call.name: call.module for call in seen.calls}.items())


def _uncalled(network: nn.Module, seen: Trace) -> list[FloatOperation]:
    """Layers whose forward the run did not call: their weights may be read directly, or not at all."""
    called = {id(call.module) for call in seen.calls}
    attention = {id(m.out_proj) for m in network.modules() if isinstance(m, nn.MultiheadAttention)}
    return [
        FloatOperation(name, type(module).__name__, "its forward is not called on `example_input`")
        for name, module in network.named_modules()
        if isinstance(module, _STORED) and id(module) not in called | attention
    ]


def _operations(seen: Trace) -> list[FloatOperation]:
    """Arithmetic of other modules, and between modules; each place once."""
    modules = {
        name: FloatOperation(name, type(module).__name__, "no integer form")
        for name, module in _called(seen)
        if not isinstance(module, (*_STORED, *KEEPS_SCALE))
    }
    between = dict.fromkeys((f"{name}.{operation}".lstrip("."), operation) for name, operation in seen.operations)
    reason = "computed between modules, placed without a graph"
    return [*modules.values(), *(FloatOperation(name, operation, reason) for name, operation in between)]
