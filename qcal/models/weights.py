"""Load trained weights from a file, whoever wrote it, or say exactly why they do not fit."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

# What wraps a network in its checkpoint: DataParallel, a LightningModule's attribute, torch.compile, another common
# attribute.
_WRAPPERS = ("module.", "model.", "_orig_mod.", "net.")
# Where a checkpoint keeps the state dict among epoch, optimizer and so on.
_CONTAINERS = ("state_dict", "model")
_NUM_NAMED = 3


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Fill every parameter and buffer of `module` from the file at `path`, or change nothing and raise.

    The file holds a state dict as `torch.save(network.state_dict(), path)` writes it, or a checkpoint that has one
    under `state_dict` (Lightning) or `model`. The prefixes `module.`, `model.`, `_orig_mod.` and `net.` are taken off,
    one after the other, as long as every key carries the same one and the keys do not fit yet. If the keys of a
    checkpoint do not fit as a whole, those that begin with one of these prefixes are tried alone: a LightningModule's
    checkpoint also holds its loss and its metrics. Only tensors are unpickled (`weights_only=True`): a file cannot run
    code.

    Args:
        module: The network to fill, on any device; the values are converted to its dtypes.
        path: The file.

    Raises:
        ValueError: There is no such file, or it is not a state dict that can be read safely.
        ValueError: Keys or shapes differ from the network's.
        ValueError: A value is NaN or infinite.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "trained.pt"
        >>> torch.save({"state_dict": {"model.weight": torch.tensor([[2.0]]), "model.bias": torch.tensor([1.0])}}, file)
        >>> layer = nn.Linear(1, 1)
        >>> load_weights(layer, file)
        >>> layer(torch.tensor([3.0])).item()
        7.0
    """
    path = Path(path)
    candidates = _candidates(_read(path), path)
    expected = module.state_dict()
    fitting = min(candidates, key=lambda state: len(_differences(state, expected)))
    differences = _differences(fitting, expected)
    if differences:
        raise ValueError(
            f"The weights in `{path}` must have the keys and shapes of {type(module).__name__}, "
            f"got {_summary(differences)}. Build the model with the arguments it was trained with "
            "(depth, width, num_classes), or pass its own file."
        )
    _check_finite(fitting, path)
    module.load_state_dict(fitting)


def _read(path: Path) -> object:
    if not path.is_file():
        raise ValueError(
            f"`weights` must be the path of a file written by torch.save, got `{path}`, which is not there. "
            f"Relative paths start at the working folder, `{Path.cwd()}`."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(
            f"`weights` must be a file that torch.load reads with weights_only=True, got `{path}`: {reason} "
            "If you trust it, load it yourself and save only the state dict: torch.save(network.state_dict(), path)."
        ) from error


def _candidates(content: object, path: Path) -> list[dict[str, Tensor]]:
    """The readings of a file's content as a network's state dict, the most literal first."""
    stored, in_checkpoint = content, False
    if isinstance(content, Mapping):
        inside = [content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
        stored, in_checkpoint = (inside[0], True) if inside else (content, False)
    if not isinstance(stored, Mapping) or not stored or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(
            f"`weights` must hold a state dict (names to tensors), plain or under {' or '.join(_CONTAINERS)}, "
            f"got {_description(stored)} in `{path}`. Save it with torch.save(network.state_dict(), path)."
        )
    state = {str(key): value for key, value in stored.items()}
    candidates = _unwrapped(state)
    if in_checkpoint:
        parts = ({key: value for key, value in state.items() if key.startswith(prefix)} for prefix in _WRAPPERS)
        candidates += [candidate for part in parts if part for candidate in _unwrapped(part)]
    return candidates


def _unwrapped(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The state dict as it is, then with one wrapping prefix after the other taken off, as far as all keys have it."""
    steps = [state]
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in steps[-1])), None):
        steps.append({key.removeprefix(prefix): value for key, value in steps[-1].items()})
    return steps


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """What keeps `state` from being loaded strictly: key to reason."""
    # Files written before torch 0.4.1 have no batch counters; load_state_dict starts them at 0.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    differences = dict.fromkeys(missing, "missing")
    differences |= {key: "unexpected" for key in state if key not in expected}
    for key in state.keys() & expected.keys():
        if state[key].shape != expected[key].shape:
            differences[key] = f"{tuple(state[key].shape)} where the model has {tuple(expected[key].shape)}"
    return differences


def _summary(differences: Mapping[str, str]) -> str:
    """The first few differences of each kind, in the order of the keys."""
    parts = []
    for kind in ("missing", "unexpected"):
        keys = [key for key, reason in differences.items() if reason == kind]
        if keys:
            parts.append(f"{len(keys)} {kind} ({_first(keys)})")
    shapes = sorted(f"{key} {reason}" for key, reason in differences.items() if reason not in ("missing", "unexpected"))
    if shapes:
        parts.append(f"{len(shapes)} of another shape ({_first(shapes)})")
    return ", ".join(parts)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")


def _description(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {_first([repr(key) for key in content])}" if content else "an empty dictionary"
    return f"a {type(content).__name__}"


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"The weights in `{path}` must be finite, "
            f"got NaN or infinity in {len(broken)} of {len(state)} tensors ({_first(broken)}). "
            "Take an earlier checkpoint: the training that wrote this one had diverged."
        )
