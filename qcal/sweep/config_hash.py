"""What makes a run's figures, as one short hash, and how two configs differ."""

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

# Where a run goes, who is told, and what is shown meanwhile: none of it changes a figure.
_PLACES = ("run", "wandb", "ckpt_path", "weights_only")
_SHOWN = ("enable_progress_bar", "enable_model_summary")
_ABSENT = "(absent)"


def without_places(config: dict[str, Any]) -> dict[str, Any]:  # Any: nested plain values
    """The part of a config that makes the figures: without folder, tracking, checkpoint and progress bars.

    Args:
        config: The whole config of a run, as the command line resolves it.

    Returns:
        A copy with less in it.

    Example:
        >>> without_places({"run": {"dir": "runs/a"}, "seed_everything": 1, "trainer": {"enable_progress_bar": False}})
        {'seed_everything': 1, 'trainer': {}}
    """
    kept = {key: copy.deepcopy(value) for key, value in config.items() if key not in _PLACES}
    for key in _SHOWN:
        kept.get("trainer", {}).pop(key, None)
    return kept


def hash_config(config: dict[str, Any]) -> str:  # Any: nested plain values
    """Sixteen hexadecimal digits that are equal for equal configs, in whatever order their keys come.

    Args:
        config: Nested plain values.

    Returns:
        The beginning of the SHA-256 of its canonical JSON.

    Example:
        >>> hash_config({"a": 1, "b": [2.0, None]}) == hash_config({"b": [2.0, None], "a": 1})
        True
        >>> hash_config({"a": 1})
        '015abd7f5cc57a2d'
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:  # Any: nested plain values
    """One line for each key in which two configs differ.

    Args:
        old: The config before.
        new: The config now.

    Returns:
        Lines such as `trainer.max_epochs: 15 -> 20`, by key.

    Example:
        >>> differences({"trainer": {"max_epochs": 15}}, {"trainer": {"max_epochs": 20}, "seed_everything": 1})
        ['seed_everything: (absent) -> 1', 'trainer.max_epochs: 15 -> 20']
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key, _ABSENT) != after.get(key, _ABSENT))
    return [f"{key}: {before.get(key, _ABSENT)} -> {after.get(key, _ABSENT)}" for key in keys]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # Any: nested plain values
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value, sort_keys=True)
