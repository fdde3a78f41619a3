"""What was found in somebody else's project: where images and labels are, what makes the logits, what they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from qcal.callbacks.batches import describe, walk
from qcal.callbacks.chosen_weights import ChosenWeights
from qcal.callbacks.copies import copy_parts
from qcal.callbacks.images_to_logits import SELF, ImagesToLogits, Way
from qcal.callbacks.watch import BINARY_LOSS, PROBABILITY_LOSS

Output = Literal["logits", "log_probs", "binary_logits"]

_MEANING: dict[Output, str] = {
    "logits": "logits",
    "log_probs": "log-probabilities, which are logits",
    "binary_logits": "one logit z a row, taken as two classes with logits [0, z]",
}


@dataclass(frozen=True)
class Attachment:
    """How the network is called; plain strings, so that it can be written down and compared.

    Attributes:
        way: From which part of the batch, through which submodules.
        target: Where labels are.
        logits_key: Path of the logits in what was returned, such as `['logits']`; all of it when empty.
        function: Dotted path or name of the function that takes the logits out; none when empty.
        output: `logits`, `log_probs` (their softmax is the same probabilities), or `binary_logits` (one logit z, which
            stands for two classes with logits `[0, z]`).
        num_classes: Of the logits.
        found_by: How: what the loss was, that an argument said so, or that it is the usual place.
    """

    way: Way
    target: str
    logits_key: str = ""
    function: str = ""
    output: Output = "logits"
    num_classes: int = 0
    found_by: str = ""

    def line(self, pl_module: nn.Module) -> str:
        """One line for people: what was found, how, and how to override it."""
        return (
            f"PostTrainingQuantization: network={self.way}{self.logits_key} ({class_names(pl_module, self.way)}), "
            f"input={self.way.input}, target={self.target}, output={_MEANING[self.output]}, {self.num_classes} "
            f"classes; {self.found_by} (override: `network=`, `logits=`, `batch_to_inputs=`)."
        )

    def described(self) -> dict[str, str | int]:
        """Plain values for the record: `network`, `input`, `target`, `output` and how they were found."""
        taken = (self.way.made_by or self.way.module) + self.logits_key
        return {
            "network": self.way.module,
            "input": self.way.input,
            "target": self.target,
            "output": f"{self.function}({taken})" if self.function else taken,
            "meaning": _MEANING[self.output],
            "num_classes": self.num_classes,
            "found_by": self.found_by,
        }


def build_network(
    pl_module: nn.Module,
    attachment: Attachment,
    function: Callable[[Any], Any] | None = None,
    weights: ChosenWeights | None = None,
) -> nn.Module:
    """A copy of the network of an attachment: images `(N, ...)` to logits `(N, C)`; `pl_module` is unchanged.

    Args:
        pl_module: The user's module.
        attachment: What to copy and how to call it.
        function: The user's function from an output to logits, if there is one.
        weights: Those the copy gets; those of `pl_module` when not given.

    Returns:
        The copy of a submodule where it takes images and returns logits, else a module around copies.

    Raises:
        ValueError: `weights` lack some of the network's.
    """
    way, key = attachment.way, attachment.logits_key
    root, is_binary = copy_parts(pl_module, way), attachment.output == "binary_logits"
    if weights is not None:
        weights.load_into(root)
    if way.is_bare and not (key or function or is_binary):
        return root.get_submodule(way.module)
    return ImagesToLogits(root, way, key=key, function=function, is_binary=is_binary)


def class_names(pl_module: nn.Module, way: Way) -> str:
    """Classes of the submodules, joined by `+`; of what `torch.compile` wrapped, that of the module inside."""
    modules = {name: module for name, module in pl_module.named_modules() if name} | {SELF: pl_module}
    modules = {name: getattr(module, "_orig_mod", module) for name, module in modules.items()}
    return "+".join(type(modules[step]).__name__ if step in modules else step for step in way.steps)


def take_logits(output: Any, num_images: int) -> str:
    """Path of the logits in what a network returned: itself, its `logits`, or the only `(N, C)` in it.

    Any: the output of a module of whatever kind.

    Raises:
        ValueError: Nothing in it, or several things, can be logits.

    Example:
        >>> import torch
        >>> take_logits({"features": torch.zeros(2, 3, 4), "logits": torch.zeros(2, 5)}, num_images=2)
        "['logits']"
    """
    found = [
        path
        for path, part in walk(output)
        if isinstance(part, Tensor) and part.is_floating_point() and part.ndim in (1, 2) and len(part) == num_images
    ]
    paths = [path for path in found if path in ("['logits']", ".logits")] or found
    if len(paths) != 1:
        raise ValueError(
            f"Logits (N, C) were expected for {num_images} images, got {describe(output)}. Pass `logits=`, the name "
            "of the submodule that makes the logits, or a function that takes them out of this output."
        )
    return paths[0]


def classify(logits: Tensor, read_by: str) -> Output:
    """What a network's output is, by its numbers and by the loss that reads it.

    Args:
        logits: `(N, C)`, `(N, 1)` or `(N,)`.
        read_by: Name of the loss; empty if none was seen.

    Raises:
        ValueError: Probabilities, or scores of classes that do not exclude each other.

    Example:
        >>> import torch
        >>> classify(torch.tensor([[2.0, -1.0]]), "cross_entropy")
        'logits'
    """
    logits = logits.detach().float()
    if logits.ndim == 1 or logits.shape[1] == 1:
        is_named = read_by == BINARY_LOSS or read_by.startswith(f"{PROBABILITY_LOSS} after")
        if not is_named and bool(((logits >= 0) & (logits <= 1)).all()):
            raise ValueError(_way_out("values in [0, 1]", "torch.logit"))
        return "binary_logits"
    if bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise ValueError(_way_out("rows that are not negative and sum to 1", "torch.log"))
    if read_by.startswith(PROBABILITY_LOSS):  # with logits or without
        raise ValueError(
            f"The loss {read_by} reads {logits.shape[1]} scores a row, each with a sigmoid of its own, but swaps and "
            "confidence are about classes that exclude each other. Train with cross-entropy, or leave the callback out."
        )
    is_log = bool((logits <= 1e-4).all()) and bool((logits.logsumexp(dim=1).abs() < 1e-3).all())
    return "log_probs" if is_log else "logits"


def _way_out(seen: str, function: str) -> str:
    return (
        f"The network returns probabilities ({seen}), but NLL, temperature and quantization need logits. Return the "
        "logits and let the loss take the softmax (or sigmoid), or pass `logits=` the name of the submodule whose "
        f"output goes into it, or `logits='{function}'`, which turns these probabilities into logits."
    )
