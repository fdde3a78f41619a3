"""What a plan observed, in two files, so that it need not be gathered twice.

`plan.json` holds what identifies the network (names and shapes of its quantizers and layers, a hash of its weights) and
where the numbers come from; `plan.safetensors` holds the statistics of every quantizer, those of the equalized network
if it was observed, and the sample of images.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qcal.atomic import replacing
from qcal.quantization.observers import RangeObserver
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import Placement

FORMAT_VERSION = 2
"""Raised when a reader of the old files would misunderstand the new ones, or equalization makes another network."""

_JSON, _TENSORS = "plan.json", "plan.safetensors"
_PLAIN, _EQUALIZED, _SAMPLE = "plain", "equalized", "sample"

# What the JSON says of a network; Any: plain JSON values.
Identity = dict[str, Any]


@dataclass(frozen=True)
class Observed:
    """What one pass over the images gathered.

    Args:
        statistics: Of each quantizer of the network, by its name.
        equalized_statistics: Of each quantizer of the equalized network; empty if it was not observed.
        sample: The images (N, ...) that were kept, if any.
    """

    statistics: Mapping[str, RangeObserver]
    equalized_statistics: Mapping[str, RangeObserver]
    sample: Tensor | None


def identify(graph: nn.Module, placement: Placement, image_shape: tuple[int, ...]) -> Identity:
    """What tells the statistics of this network from those of another: weights, quantizers, size of an image."""
    digest = hashlib.sha256()
    for layer in placement.layers:
        for target in (layer.target, layer.bias):
            digest.update(get_tensor(graph, target).detach().cpu().contiguous().numpy().tobytes())
    return {
        "image_shape": list(image_shape),
        "quantizers": {quantizer.name: list(quantizer.shape) for quantizer in placement.quantizers},
        "layers": [layer.name for layer in placement.layers],
        "weights_sha256": digest.hexdigest(),
    }


def save_observed(folder: Path, network: Identity, observed: Observed) -> None:
    """Write both files, each whole or not at all.

    Raises:
        ValueError: nothing was observed.
    """
    if not observed.statistics:
        raise ValueError("A plan must have observed images to be saved, got none. Call `plan.observe(images)` first.")
    tensors = _tensors(_PLAIN, observed.statistics) | _tensors(_EQUALIZED, observed.equalized_statistics)
    if observed.sample is not None:
        tensors[_SAMPLE] = observed.sample.cpu().contiguous()
    with replacing(folder / _TENSORS) as path:
        save_file(tensors, path)
    about = {
        "format_version": FORMAT_VERSION,
        "qcal": version("qcal"),
        "torch": torch.__version__,
        "network": network,
        "tensors_sha256": _sha256(folder / _TENSORS),
    }
    with replacing(folder / _JSON) as path:
        path.write_text(json.dumps(about, indent=2))


def load_observed(folder: Path, network: Identity, device: torch.device) -> Observed:
    """Read both files, if they are of this network.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another version of the files, or another network; the message says in what it differs.
    """
    for name in (_JSON, _TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"A saved plan must hold {_JSON} and {_TENSORS}, got no {name} in {folder}.")
    about = json.loads((folder / _JSON).read_text())
    if about.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"A saved plan must have format version {FORMAT_VERSION}, got {about.get('format_version')!r} in {folder}. "
            "Observe and save it again with this version of qcal."
        )
    other = [key for key, value in network.items() if about["network"].get(key) != value]
    if other:
        raise ValueError(
            f"A saved plan must be of the same network, got one in {folder} with other {', '.join(other)}. Prepare the "
            "plan from the network and weights it was saved with, or observe anew."
        )
    if about["tensors_sha256"] != _sha256(folder / _TENSORS):
        raise ValueError(
            f"The two files of a saved plan must be of one writing, got a {_TENSORS} in {folder} that {_JSON} does not "
            "describe. Was the writing interrupted? Observe and save it again."
        )
    tensors = load_file(folder / _TENSORS)
    return Observed(
        _statistics(_PLAIN, tensors, device), _statistics(_EQUALIZED, tensors, device), tensors.get(_SAMPLE)
    )


def _tensors(variant: str, statistics: Mapping[str, RangeObserver]) -> dict[str, Tensor]:
    """The statistics of one network, each tensor under `variant/quantizer/field`."""
    return {
        f"{variant}/{name}/{field}": tensor.cpu().contiguous()
        for name, observer in statistics.items()
        for field, tensor in observer.state_dict().items()
    }


def _statistics(variant: str, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, RangeObserver]:
    """What `_tensors` was made from."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{variant}/"):
            name, _, field = key.removeprefix(f"{variant}/").rpartition("/")
            states.setdefault(name, {})[field] = tensor
    return {name: RangeObserver.from_state_dict(state).to(device) for name, state in states.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
