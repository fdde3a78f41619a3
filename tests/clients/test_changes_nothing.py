"""Each client is run twice, with the callback and without: everything the run leaves is the same, bit for bit."""

import importlib
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qcal.callbacks import PostTrainingQuantization
from tests.clients import odd_projects, projects
from tests.clients.project import Project
from tests.support.equality import assert_equal

Make = Callable[[ModuleType], Project]

CLIENTS: list[Make] = [
    projects.plain,
    projects.template,
    projects.dict_batch,
    projects.features_and_head,
    projects.manual_optimization,
    projects.binary,
    odd_projects.transfer_learning,
    odd_projects.normalises_in_forward,
    odd_projects.transfer_hooks,
]
# Of a checkpoint: `callbacks` and `hparams` hold paths, which differ by where a test runs.
_TRAINED = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")


def _states_of_modules(module: nn.Module) -> list[Any]:
    """Per submodule: its mode and its hooks; per parameter: gradients wanted, device, type and gradient."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    parts = [(part.training, *(len(getattr(part, name)) for name in hooks)) for part in module.modules()]
    return [parts, [(p.requires_grad, str(p.device), p.dtype, p.grad) for p in module.parameters()]]


def _random_states() -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002  # the state that a user's code may rely on
    return [random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state()]  # type: ignore[index]  # a tuple


def _checkpoints(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.ckpt"))
    loaded = {file.name: torch.load(file, weights_only=False) for file in files}
    return {name: {part: content[part] for part in _TRAINED} for name, content in loaded.items()}


def _run(pl: ModuleType, make: Make, folder: Path, callbacks: list[Any], **kwargs: Any) -> dict[str, Any]:
    """Fit, validate, fit again; what there is after each."""
    pl.seed_everything(1, verbose=False)
    project = make(pl)
    saving = pl.callbacks.ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1, save_last=True)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, saving],
        **kwargs,
    )
    left: dict[str, Any] = {}

    def note(after: str) -> None:
        left[after] = {
            "weights": {name: value.clone() for name, value in project.module.state_dict().items()},
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "metrics": dict(trainer.callback_metrics),
            "random": _random_states(),
            "modules": _states_of_modules(project.module),
            "generators": [loader.generator for loader in (project.train, project.val)],  # type: ignore[attr-defined]  # loaders of torch
            "checkpoints": _checkpoints(folder / "checkpoints"),
        }

    trainer.fit(project.module, project.train, project.val)
    note("fit")
    left["validated"] = trainer.validate(project.module, project.val, verbose=False)
    note("validate")
    trainer.fit_loop.max_epochs = 3
    trainer.fit(project.module, project.train, project.val)
    note("second fit")
    assert trainer.global_step in (9, 18)  # two optimizers count twice
    return left


@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")  # a client freezes its backbone so
@pytest.mark.parametrize("make", CLIENTS, ids=lambda make: make.__name__)
def test_a_run_with_the_callback_is_the_run_without_it(make: Make, tmp_path: Path) -> None:
    pl = importlib.import_module("lightning.pytorch")
    without = _run(pl, make, tmp_path / "without", [])
    callback = PostTrainingQuantization(["w8a8", "w4a4"], on_error="raise", every_n_epochs=1)
    withal = _run(pl, make, tmp_path / "with", [callback])
    assert (tmp_path / "with" / "ptq-2" / "records.json").is_file()
    assert len(without["fit"]["checkpoints"]) == 3
    for after, left in without.items():
        assert_equal(left, withal[after])


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("kwargs", [{"num_sanity_val_steps": 0}, {"precision": "bf16-mixed"}], ids=str)
def test_so_it_is_in_both_packages_and_other_set_ups(package: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    pl = pytest.importorskip(package, reason=f"{package} is not installed: its own Trainer cannot be tried")
    without = _run(pl, projects.plain, tmp_path / "without", [], **kwargs)
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    withal = _run(pl, projects.plain, tmp_path / "with", [callback], **kwargs)
    for after, left in without.items():
        assert_equal(left, withal[after])
