"""Other people's projects: `fit` with the callback, compared with an evaluation that each project does itself."""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from qcal.callbacks import PostTrainingQuantization
from qcal.robustness import read_logits, read_record
from tests.clients import odd_projects, projects
from tests.clients.project import VAL, ConvNet, Project

Make = Callable[[ModuleType], Project]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def either(request: pytest.FixtureRequest) -> ModuleType:
    return _package(request.param)


@pytest.fixture
def pl() -> ModuleType:
    return _package("lightning.pytorch")


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed: its own Trainer and LightningModule cannot be tried")


def _trainer(pl: ModuleType, folder: Path, *callbacks: Any, **kwargs: Any) -> Any:  # Any: of either package
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return pl.Trainer(**(defaults | kwargs))


def _fit(pl: ModuleType, make: Make, folder: Path, *, precision: str = "32-true", **kwargs: Any) -> tuple[Any, Project]:
    pl.seed_everything(3, verbose=False)
    project = make(pl)
    callback = PostTrainingQuantization(["w8a8"], on_error="raise", **kwargs)
    _trainer(pl, folder, callback, precision=precision).fit(project.module, project.train, project.val)
    return callback, project


def _check(callback: Any, project: Project, folder: Path, **expected: str) -> None:
    record = read_record(folder / "ptq")
    accuracy, nll = project.evaluate()
    assert record.context["num_images"] == VAL
    assert record.float_scores is not None
    assert record.float_scores.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert record.float_scores.nll == pytest.approx(nll, rel=1e-5)
    assert abs(record.settings["w8a8"].nll - nll) < 0.2
    for name, value in expected.items():
        assert record.context["attachment"][name] == value, name
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in project.module.modules())


def test_a_plain_module(either: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        callback, project = _fit(either, projects.plain, tmp_path)
    _check(callback, project, tmp_path, network="model", input="batch[0]", target="batch[1]", output="model")
    line = "network=model (ConvNet), input=batch[0], target=batch[1], output=logits, 4 classes"
    assert [line in record.getMessage() for record in caplog.records].count(True) == 1
    assert read_record(tmp_path / "ptq").context["network"] == "ConvNet"


def test_transfer_learning_with_a_torchvision_network(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, odd_projects.transfer_learning, tmp_path)
    _check(callback, project, tmp_path, network="self", input="batch[0]", target="batch[1]")


def test_net_partial_optimizer_and_metrics_inside(either: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(either, projects.template, tmp_path)
    _check(callback, project, tmp_path, network="net", output="net")


def test_dictionaries_in_and_an_object_with_logits_and_loss_out(either: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(either, projects.dict_batch, tmp_path)
    expected = {"input": "batch['pixel_values']", "target": "batch['labels']", "output": "model.logits"}
    _check(callback, project, tmp_path, network="model", **expected)


def test_forward_returns_features_and_the_step_applies_a_head(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, projects.features_and_head, tmp_path)
    _check(callback, project, tmp_path, network="self+head", input="batch.picture", target="batch.category")


def test_manual_optimization_of_parts_in_sequence(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, projects.manual_optimization, tmp_path)
    _check(callback, project, tmp_path, network="encoder+flatten+fc", input="batch[0][0]", target="batch[1]")


def test_one_output_counts_as_two_classes(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, projects.binary, tmp_path)
    _check(callback, project, tmp_path, meaning="one logit z a row, taken as two classes with logits [0, z]")


def test_normalisation_in_forward_is_part_of_the_network(either: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(either, odd_projects.normalises_in_forward, tmp_path)
    _check(callback, project, tmp_path, network="self", output="self")


def test_batches_pass_the_hooks_of_the_project_as_in_validation(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, odd_projects.transfer_hooks, tmp_path)
    _check(callback, project, tmp_path, network="net", input="batch[0]")


def test_a_compiled_network(pl: ModuleType, tmp_path: Path) -> None:
    callback, project = _fit(pl, lambda pl: projects.plain(pl, compiled=True), tmp_path)
    _check(callback, project, tmp_path, network="model")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, tracing what Lightning logs
def test_a_compiled_lightning_module(pl: ModuleType, tmp_path: Path) -> None:
    project = projects.plain(pl)
    compiled = torch.compile(project.module, backend="eager")
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    _trainer(pl, tmp_path, callback).fit(compiled, project.train, project.val)
    _check(callback, project, tmp_path, network="self")


def test_float_logits_are_those_of_mixed_precision(pl: ModuleType, tmp_path: Path) -> None:
    _, project = _fit(pl, projects.plain, tmp_path, precision="bf16-mixed")
    with torch.autocast("cpu", torch.bfloat16):
        accuracy, nll = project.evaluate()
    record = read_record(tmp_path / "ptq")
    assert record.float_scores is not None
    assert record.float_scores.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert record.float_scores.nll == pytest.approx(nll, rel=1e-6)
    assert record.context["precision_compared"] == "bf16-mixed"
    assert 0 < record.context["precision_gap"]["largest_logit_difference"] < 0.1
    full_accuracy, _ = project.evaluate()
    assert record.context["precision_gap"]["error_change"] == pytest.approx(accuracy - full_accuracy, abs=1e-9)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_float_logits_are_those_of_the_weights_type(
    precision: str, dtype: torch.dtype, pl: ModuleType, tmp_path: Path
) -> None:
    callback, project = _fit(pl, projects.plain, tmp_path, precision=precision)
    assert next(project.module.parameters()).dtype == dtype
    project.module.eval()
    with torch.no_grad():
        logits = torch.cat([project.module(images.to(dtype)).float() for images, _ in project.val])
    written = read_logits(tmp_path / "ptq" / "logits.npz")
    assert torch.equal(written.float, logits)
    assert written.float32 is not None
    assert callback.record.context["precision_compared"] == precision
    assert callback.record.context["precision_gap"]["largest_logit_difference"] < 0.1


def test_images_changed_in_the_step_are_given_by_a_function(pl: ModuleType, tmp_path: Path) -> None:
    path = "tests.clients.odd_projects.inputs_of_scaled"
    callback, project = _fit(pl, odd_projects.scales_in_the_step, tmp_path, batch_to_inputs=path)
    _check(callback, project, tmp_path, network="model", input="batch_to_inputs(batch)[0]")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            odd_projects.probabilities,
            r"cannot study this network. self: The network returns probabilities.*or pass `logits=`",
        ),
        (
            odd_projects.scales_in_the_step,
            r"The batch is dict\{'sample': list\[Tensor\(8, 3, 8, 8\) float32.*batch_to_inputs",
        ),
    ],
)
def test_what_cannot_be_studied_is_refused_at_the_sanity_check(
    make: Make, message: str, either: ModuleType, tmp_path: Path
) -> None:
    project = make(either)
    before = {name: value.clone() for name, value in project.module.state_dict().items()}
    trainer = _trainer(either, tmp_path, PostTrainingQuantization(["w8a8"]))
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(project.module, project.train, project.val)
    assert trainer.global_step == 0
    assert not (tmp_path / "ptq").exists()
    assert all(torch.equal(value, before[name]) for name, value in project.module.state_dict().items())
    assert not any(part._forward_hooks for part in project.module.modules())


class Branching(ConvNet):
    """Cannot be exported: it looks at what it computes."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x
        for layer in self:
            logits = layer(logits)
        return logits if bool(logits.max() > -1e9) else -logits


def test_a_network_that_cannot_be_exported_is_refused_before_training_with_the_way_out(
    pl: ModuleType, tmp_path: Path
) -> None:
    project = projects.plain(pl, make_network=Branching)
    trainer = _trainer(pl, tmp_path, PostTrainingQuantization(["w8a8"]))
    with pytest.raises(MisconfigurationException, match=r"cannot study this network.*placement=.modules."):
        trainer.fit(project.module, project.train, project.val)
    assert trainer.global_step == 0

    callback, project = _fit(pl, lambda pl: projects.plain(pl, make_network=Branching), tmp_path, placement="modules")
    _check(callback, project, tmp_path, network="model")
    assert callback.record.context["placement"]["name"] == "modules"


def test_a_pattern_that_matches_nothing_is_refused_before_training(pl: ModuleType, tmp_path: Path) -> None:
    project = projects.plain(pl)
    trainer = _trainer(pl, tmp_path, PostTrainingQuantization(["w8a8", "w4a8-keep=layer9.*"]))
    with pytest.raises(MisconfigurationException, match=r"must match a layer or stored tensor.*'layer9\.\*'"):
        trainer.fit(project.module, project.train, project.val)
    assert trainer.global_step == 0


def test_without_a_sanity_check_a_refusal_costs_no_training(
    pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = odd_projects.probabilities(pl)
    trainer = _trainer(pl, tmp_path, PostTrainingQuantization(["w8a8"]), num_sanity_val_steps=0)
    trainer.fit(project.module, project.train, project.val)
    assert trainer.global_step == 6
    assert "cannot study this network" in caplog.text
    assert "Training ended well, but its quantization study did not" in caplog.text
    assert "The network returns probabilities" in read_record(tmp_path / "ptq").errors["study"]


def test_without_a_validation_loop_the_usual_places_are_tried(pl: ModuleType, tmp_path: Path) -> None:
    project = projects.plain(pl)

    class Data(pl.LightningDataModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def train_dataloader(self) -> Any:
            return project.train

        def val_dataloader(self) -> Any:
            return project.val

        def test_dataloader(self) -> Any:
            return project.val

    callback = PostTrainingQuantization(["w8a8"], data="test", on_error="raise")
    _trainer(pl, tmp_path, callback, limit_val_batches=0).fit(project.module, datamodule=Data())
    _check(callback, project, tmp_path, network="self", input="batch[0]", target="batch[1]")


def test_a_test_alone_is_watched_too(pl: ModuleType, tmp_path: Path) -> None:
    project = projects.plain(pl)

    class Data(pl.LightningDataModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def train_dataloader(self) -> Any:
            return project.train

        def test_dataloader(self) -> Any:
            return project.val

    project.module.test_step = project.module.validation_step
    callback = PostTrainingQuantization(["w8a8"], on_error="raise")
    _trainer(pl, tmp_path, callback).test(project.module, datamodule=Data(), verbose=False)
    _check(callback, project, tmp_path, network="model", input="batch[0]", target="batch[1]")
