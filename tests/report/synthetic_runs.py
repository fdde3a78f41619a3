"""Records of networks of which everything is known: how confident they are, and what quantization does to them.

All see the same images. A network's logits are those of the true model, with an error of its own for each seed, times
`4^strength`: that is its overconfidence, and it moves no prediction. Quantization adds Gaussian noise to the logits. Of
one size for all, it breaks the fewer predictions the larger the logits are: overconfidence protects, by an amount that
can be computed. Of the logits' size, it breaks the same predictions whatever the confidence: there is nothing to find.
"""

import json
from pathlib import Path
from typing import Any

import torch

from qcal.robustness import Logits, Study, build_record, write_record

CLASSES = 5
NOISE = {"w8a8": 0.3, "w4a4": 2.0}
STRENGTHS = (-0.5, -0.25, 0.0, 0.25, 0.5)


def network_logits(strength: float, seed: int, *, num_images: int, protects: bool = True, images: int = 0) -> Logits:
    """Float and quantized logits of one network on a set of images."""
    shared = torch.Generator().manual_seed(1000 + images)
    true = 2.0 * torch.randn(num_images, CLASSES, generator=shared)
    target = torch.multinomial(torch.softmax(true, dim=1), 1, generator=shared).squeeze(1)
    own = torch.Generator().manual_seed(int(10_000 * (strength + 1)) + 100 * seed + images)
    scale = 4.0**strength
    plain = scale * (true + 0.5 * torch.randn(num_images, CLASSES, generator=own))
    size = 1.0 if protects else scale
    noisy = {name: plain + size * std * torch.randn(plain.shape, generator=own) for name, std in NOISE.items()}
    return Logits(target, plain, noisy)


def config_of(strength: float, seed: int) -> dict[str, Any]:
    loss = {"class_path": "qcal.losses.ConfidenceDial", "init_args": {"strength": strength}}
    network = {"class_path": "qcal.models.CifarResNet", "init_args": {"depth": 8, "num_classes": CLASSES}}
    return {
        "seed_everything": seed,
        "model": {"model": network, "loss": loss},
        "data": {"class_path": "qcal.data.Digits", "init_args": {"batch_size": 64}},
        "trainer": {"max_epochs": 3, "precision": None},
    }


def write_run(
    folder: Path,
    strength: float = 0.0,
    seed: int = 0,
    *,
    num_images: int = 400,
    protects: bool = True,
    with_logits: bool = False,
    **context: Any,
) -> Path:
    """A run's folder with `ptq/records.json`, and with its logits if asked for."""
    held_out = network_logits(strength, seed, num_images=200, protects=protects, images=1) if with_logits else None
    study = Study(
        network_logits(strength, seed, num_images=num_images, protects=protects),
        recalibration=held_out,
        seconds={"evaluate": 0.5},
    )
    known = {
        "seed": seed,
        "config": config_of(strength, seed),
        "network": "CifarResNet",
        "weights_sha256": f"{strength}-{seed}-{protects}",
        "versions": {"qcal": "0.1.0", "torch": "2.15.0"},
        "data": {"split": "test", "roles": {"test": {"sha256": "1234", "pool_sha256": "5678"}}},
        "epochs": 3,
        **context,
    }
    write_record(build_record(study, known), folder / "ptq", study=study if with_logits else None)
    return folder


def write_sweep(folder: Path, *, seeds: int = 4, strengths: tuple[float, ...] = STRENGTHS, **options: Any) -> Path:
    """A sweep's folder: a run for each strength and seed, with the state that a sweep keeps of each."""
    for strength in strengths:
        for seed in range(seeds):
            run = write_run(folder / f"dial={strength:g},seed={seed}", strength, seed, **options)
            state = {
                "name": run.name,
                "status": "finished",
                "started": "2026-11-25T10:00:00+00:00",
                "finished": "2026-11-25T10:00:42+00:00",
            }
            (run / "run.json").write_text(json.dumps(state))
    (folder / "sweep.json").write_text("{}")
    return folder
