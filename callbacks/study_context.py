"""What a record says about where its figures come from, and the folder it goes to."""

import hashlib
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torchvision
from lightning.pytorch import Trainer
from torch import nn

import qcal


def describe_run(
    trainer: Trainer,
    network: nn.Module,
    *,
    data_description: dict[str, Any],
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    """Plain values (Any: nested JSON) that say which network, data, versions and seed a record speaks of.

    Args:
        trainer: Of the run.
        network: The network that was measured.
        data_description: From `find_data`.
        config: The whole config of the run, if it was built from one.

    Returns:
        `created`, `network`, `weights_sha256`, `seed`, `epochs`, `global_step`, `device`, `versions`, `data`, `config`.
    """
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "network": type(network).__name__,
        "weights": "last",
        "weights_sha256": weights_hash(network),
        "seed": int(seed) if seed is not None else None,
        "epochs": trainer.current_epoch,
        "global_step": trainer.global_step,
        "device": str(trainer.strategy.root_device),
        "precision_trained": str(trainer.precision),
        "precision_measured": "float32",
        "versions": _versions(),
        "data": data_description,
        "config": config,
    }


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over names and bytes of all parameters and buffers, in the order of `state_dict`."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run: the first logger's own folder, as checkpoints use it, else the trainer's root folder."""
    for logger in trainer.loggers:
        if logger.save_dir is not None:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            return Path(logger.save_dir) / str(logger.name) / version
    return Path(trainer.default_root_dir)


def free_folder(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... if a record is there already: an earlier study is never overwritten."""
    candidate, number = folder, 1
    while (candidate / "records.json").exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _versions() -> dict[str, str]:
    return {
        "qcal": qcal.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }
