"""From the user's network to a graph of tensor operations, without touching the network.

The network is copied, the copy put into eval mode and float32 and exported with `torch.export` (non-strict, any batch
size). What comes back is a plain `torch.fx.GraphModule` that maps images to logits and shares no storage with the
network. Whatever is not a classifier, cannot be exported or computes something else once exported is refused here.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from qcal.quantization.export_error import explain_export_error

# Largest |difference| over largest |logit| that float arithmetic in another order may cause; a wrong graph is far off.
AGREEMENT = 1e-4


def export_graph(model: nn.Module, example_input: Tensor, *, shares: bool = False) -> GraphModule:
    """A graph that computes what `model` computes in eval mode, for any number of images.

    Args:
        model: A classifier: images (N, ...) to logits (N, C). In either mode, on any device, compiled or wrapped for
            data parallelism. It is not changed; parameters, buffers, mode, gradients and attributes stay as they are.
        example_input: A batch of images, of the size the graph will be used with. See `example_batch`.
        shares: Whether the graph reads the parameters of `model` itself; see `float_copy`.

    Returns:
        A graph module with one input and one output, parameters frozen, on the device of `model`.

    Raises:
        TypeError: `model` is not a module, or does not return a tensor.
        ValueError: its output is not a floating (N, C) tensor or holds NaN or infinity, it cannot be exported, or the
            exported graph disagrees with it by more than `AGREEMENT`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> graph = export_graph(net, torch.randn(1, 3, 8, 8))
        >>> graph(torch.randn(5, 3, 8, 8)).shape
        torch.Size([5, 10])
    """
    check_module(model)
    # Drawing random numbers in eval mode is the network's right; moving the caller's generator is not ours.
    with plain_mode(device_of(model)), torch.random.fork_rng(cuda_devices(model)):
        network, example, expected = checked_copy(model, example_input, shares=shares)
        graph = _export(network, example)
        check_agreement(graph(example.clone()), expected, of="The exported graph")
    return graph


def check_module(model: object) -> None:
    """Raise TypeError unless `model` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")


def checked_copy(model: nn.Module, example_input: Tensor, *, shares: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    """A float copy of `model`, the example it is tried on, and the logits it gave.

    Raises:
        TypeError: `model` does not return a tensor.
        ValueError: its weights or its output hold NaN or infinity, or its output is not a floating (N, C) tensor.
    """
    network = float_copy(model, shares=shares)
    check_weights(network)
    example = example_batch(example_input, network)
    # A clone, because a forward may write to its input.
    return network, example, check_logits(network(example.clone()), len(example), name=type(unwrap(model)).__name__)


def check_weights(network: nn.Module) -> None:
    """Raise ValueError unless all parameters and running statistics of a network are finite; name those that are not.

    Other buffers may hold infinity on purpose: the masks of attention do.
    """
    statistics = ((n, b) for n, b in network.named_buffers() if n.endswith(("running_mean", "running_var")))
    bad = [n for n, value in (*network.named_parameters(), *statistics) if not bool(torch.isfinite(value).all())]
    if bad:
        raise ValueError(
            f"`model` must have finite weights, got NaN or infinity in {', '.join(map(repr, bad[:5]))}"
            f"{f' and {len(bad) - 5} more' if len(bad) > 5 else ''}. Did the training diverge?"
        )


def example_batch(example_input: Tensor, model: nn.Module) -> Tensor:
    """Two of the given images on the device of `model`; a single image is doubled.

    A batch of one would not do: `torch.export` takes a dimension of size 1 for a constant.

    Raises:
        TypeError: `example_input` is not a tensor.
        ValueError: it holds no image.
    """
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"`example_input` must be a Tensor of images (N, ...), got {type(example_input).__name__}. "
            "Pass the images of one batch, without labels."
        )
    if example_input.dim() < 2 or len(example_input) == 0:
        raise ValueError(
            f"`example_input` must be a batch of images (N, ...) with N >= 1, got shape {tuple(example_input.shape)}. "
            "Add a batch dimension with `unsqueeze(0)`."
        )
    two = torch.cat([example_input[:2]] * (2 if len(example_input) == 1 else 1)).detach()
    return two.to(device_of(model), torch.float32 if two.is_floating_point() else two.dtype, copy=True)


def float_copy(model: nn.Module, *, shares: bool = False) -> nn.Module:
    """A frozen copy of the network in eval mode and float32, out of its `torch.compile` and data-parallel wrappers.

    Args:
        model: Not changed.
        shares: Whether the numbers of parameters in float32 are shared instead of copied; buffers are copied in any
            case. For a network that is a copy already and whose forward does not write to its parameters.
    """
    network = unwrap(model)
    # Layers that keep a computed tensor as an attribute (old weight_norm, a remembered activation) cannot be copied as
    # they are, because it hangs on a gradient graph; its value can.
    computed = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    memo: dict[int, object] = dict(computed)
    if shares:
        # Parameters of its own, with the same numbers: what is then done to one of them is not done to the other.
        memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters() if p.is_leaf}
    duplicate = copy.deepcopy(network, memo)
    for parent in list(duplicate.modules()):
        for name, child in parent.named_children():
            setattr(parent, name, unwrap(child))
    return duplicate.eval().float().requires_grad_(False)


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, out of `torch.compile`, (Distributed)DataParallel and AveragedModel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def check_logits(logits: object, num_images: int, *, name: str) -> Tensor:
    """`logits` if they are what a classifier returns: finite, floating, (N, C).

    Raises:
        TypeError: not a tensor.
        ValueError: another shape or dtype, or NaN or infinity inside.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"`model` must return logits, a Tensor of shape (N, C); {name} returns {type(logits).__name__}. "
            "Wrap it in a module whose forward picks the logits out."
        )
    if logits.dim() != 2 or len(logits) != num_images or not logits.is_floating_point():
        raise ValueError(
            f"`model` must return floating logits of shape (N, C), got {tuple(logits.shape)} {logits.dtype} "
            f"for {num_images} images from {name}. Pass the part of the network that produces the logits."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            f"`model` must return finite logits, got NaN or infinity from {name} on `example_input`. "
            "Check the weights it was given and the normalisation of the images."
        )
    return logits


def check_agreement(logits: Tensor, expected: Tensor, *, of: str) -> None:
    """Raise ValueError unless the largest |difference| is at most `AGREEMENT` of the largest |logit|."""
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    difference = float((logits - expected).abs().max() / scale)
    if not difference <= AGREEMENT:  # so written that NaN fails
        raise ValueError(
            f"{of} must agree with `model` within {AGREEMENT:g} of its largest logit, got {difference:.3g}. Does the "
            "forward pass draw random numbers, change its own state or branch on its input?"
        )


def _export(network: nn.Module, example: Tensor) -> GraphModule:
    try:
        with warnings.catch_warnings():
            # A forward that remembers a tensor (`self.last = x`) remembers a fake one, in a copy that is thrown away.
            warnings.filterwarnings("ignore", message="The tensor attribute")
            program = export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception as error:  # a dozen types come out of torch.export; each means the same to the caller
        raise ValueError(explain_export_error(network, example, error)) from error
    # Guards on the image size are left out: the plan checks it, with a message for people.
    exported = program.module(check_guards=False)
    if not isinstance(exported, GraphModule):
        raise TypeError(
            f"torch.export must give a GraphModule, got {type(exported).__name__}. Is torch older than 2.11?"
        )
    return _plain(exported)


def _plain(exported: GraphModule) -> GraphModule:
    """The same graph with an ordinary `forward(x) -> logits`, free of export's input unpacking and hooks."""
    graph = exported.graph
    graph.set_codegen(CodeGen())
    output = graph.output_node()
    if isinstance(output.args[0], tuple | list):
        output.args = (output.args[0][0],)
    graph.eliminate_dead_code()
    return GraphModule(exported, graph)


@contextmanager
def plain_mode(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, ordinary tensors: those of inference mode (Lightning's test loop) do not export."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter of `model` is; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def cuda_devices(model: nn.Module) -> list[int]:
    """Whose random number generators have to be kept."""
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
