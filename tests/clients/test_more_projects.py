"""Further styles of projects: found with the accuracy that the project itself logs, or refused before training."""

import importlib
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from qcal.callbacks import PostTrainingQuantization
from tests.clients import more_projects
from tests.clients.more_projects import Shared
from tests.clients.project import VAL
from tests.support.equality import assert_equal

Make = Callable[[ModuleType], Shared]

FOUND: list[tuple[Make, dict[str, str]]] = [
    (more_projects.mixed_batches, {"network": "net"}),
    (more_projects.bytes_divided_in_the_step, {"input": "batch['image'].permute(0, 3, 1, 2).float().div(255)"}),
    (more_projects.sounds, {"output": "net.flatten(1)", "meaning": "log-probabilities, which are logits"}),
    (more_projects.distillation, {"network": "student"}),
    (more_projects.moving_average, {"network": "average"}),
    (more_projects.early_exits, {"output": "net[1]"}),
    (more_projects.locks_and_hooks, {"network": "net"}),
    (more_projects.margin, {"network": "backbone+margin"}),
]
REFUSED: list[tuple[Make, str]] = [
    (lambda pl: more_projects.margin(pl, everywhere=True), "margin is given labels.*call it without them"),
    (more_projects.with_numbers, r"net reads several parts of the batch \(batch\[0\], batch\[1\]\).*name a part"),
    (more_projects.always_drops, r"net returns something else each time it is run \(dropout that stays on\?\)"),
    (more_projects.flips_in_validation, "the step computed it. Let `forward` compute it"),
]


def _fit(pl: ModuleType, make: Make, folder: Path, callbacks: list[Any]) -> tuple[Shared, dict[str, Any], Any]:
    """What a run leaves."""
    pl.seed_everything(3, verbose=False)
    project = make(pl)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=callbacks,
    )
    trainer.fit(project.module, project.train, project.val)
    left = {
        "weights": {name: value.clone() for name, value in project.module.state_dict().items()},
        "metrics": dict(trainer.callback_metrics),
        "random": [random.getstate(), torch.get_rng_state()],
        "hooks": [[len(part._forward_hooks), len(part._forward_pre_hooks)] for part in project.module.modules()],
        "modes": [part.training for part in project.module.modules()],
        "seen": [list(getattr(part, "seen", [])) for part in project.module.modules()],
    }
    return project, left, trainer


@pytest.mark.parametrize(
    ("package", "make", "expected"),
    [("lightning.pytorch", *each) for each in FOUND] + [("pytorch_lightning", *each) for each in FOUND[:2]],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_project_is_studied_as_it_sees_itself_and_left_as_it_was(
    package: str, make: Make, expected: dict[str, str], tmp_path: Path
) -> None:
    pl = pytest.importorskip(package, reason=f"{package} is not installed: its own Trainer cannot be tried")
    _, without, _ = _fit(pl, make, tmp_path, [])
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", output_dir=str(tmp_path / "ptq"))
    _, withal, _ = _fit(pl, make, tmp_path, [callback])
    assert_equal(without, withal)
    assert callback.record is not None
    assert callback.record.float_scores is not None
    assert callback.record.float_scores.accuracy == pytest.approx(float(without["metrics"]["val_acc"]), abs=1e-6)
    assert callback.record.context["num_images"] == VAL
    for name, value in expected.items():
        assert callback.record.context["attachment"][name] == value, name


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_single_network_is_refused_before_training_with_its_reason(
    make: Make, message: str, tmp_path: Path
) -> None:
    pl = importlib.import_module("lightning.pytorch")
    made: list[Any] = []
    with pytest.raises(MisconfigurationException, match=message):
        _fit(pl, lambda pl: made.append(make(pl)) or made[0], tmp_path, [PostTrainingQuantization(["w8a8"])])  # type: ignore[func-returns-value]  # append gives None
    assert made[0].module.trainer.global_step == 0
    assert not (tmp_path / "ptq").exists()
