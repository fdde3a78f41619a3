"""The command line in-process: whole small runs, and what a user can get wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import wandb
import yaml

from qcal.cli import main
from qcal.robustness import read_analysis, read_record
from tests.support.wandb_file import read_run

# A run of seconds: a narrow network, a few images, two settings.
SMALL = [
    *("--data.train_size", "128", "--data.val_size", "50", "--data.range_estimation_size", "64"),
    *("--model.model.init_args.width", "4", "--trainer.max_epochs", "1"),
    *("--ptq.settings", "[w8a8,w3a8]", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; Weights & Biases offline, its state left to no other test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    yield tmp_path
    wandb.finish()
    wandb.teardown()


def test_fit_leaves_everything_a_user_looks_for_and_can_be_run_and_tested_again(folder: Path) -> None:
    assert (
        main(
            [
                "fit",
                *SMALL,
                "--run.dir",
                "first",
                "-c",
                "configs/regimes/focal.yaml",
                "--model.loss.init_args.gamma",
                "2",
                "--seed_everything",
                "1",
            ]
        )
        == 0
    )
    first = folder / "first"
    assert (first / "metrics.csv").is_file()
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["loss"] == {"class_path": "qcal.losses.FocalLoss", "init_args": {"gamma": 2.0}}
    assert config["seed_everything"] == 1
    record = read_record(first / "ptq")
    assert list(record.settings) == ["w8a8", "w3a8"]
    assert record.context["seed"] == 1
    assert record.context["data"]["split"] == "test"
    assert record.context["config"]["model"]["loss"]["init_args"] == {"gamma": 2.0}
    pictures = {path.stem for path in (first / "ptq" / "figures").glob("*.png")}
    assert pictures >= {"reliability", "swaps", "swap_curve", "forecast", "repair", "selective_fallback"}
    assert read_analysis(first / "ptq")["swaps"].keys() == record.settings.keys()

    wandb.finish()  # as the end of the process does
    run = read_run(first)
    assert run.project == "qcal"
    assert run.config["model"]["loss"]["init_args"] == {"gamma": 2.0}
    logged = {key for row in run.history for key in row}
    assert {
        "val/accuracy",
        "val/ece",
        "train/loss_epoch",
        "ptq/w3a8/swap_rate",
        "ptq/settings",
        "ptq/swaps",
        "ptq/reliability",
    } <= logged
    assert run.summary["ptq/w3a8/accuracy"] == pytest.approx(record.settings["w3a8"].accuracy)
    (table,) = [row["ptq/settings"] for row in run.history if "ptq/settings" in row]
    assert (table["_type"], table["nrows"]) == ("table-file", 2)
    assert list(first.rglob("media/images/**/*.png"))

    # The saved config runs again, into a folder of its own, to the same figures.
    assert main(["fit", "-c", "first/config.yaml", "--run.name", "again", "--wandb.mode", "disabled"]) == 0
    again = read_record(folder / "runs" / "again" / "ptq")
    assert again.settings == record.settings
    assert again.context["weights_sha256"] == record.context["weights_sha256"]

    # The checkpoint alone gives the same study, without training.
    arguments = [
        "test",
        "-c",
        "first/config.yaml",
        "--ckpt_path",
        "first/checkpoints/last.ckpt",
        "--run.dir",
        "tested",
        "--wandb.mode",
        "disabled",
    ]
    assert main(arguments) == 0
    tested = read_record(folder / "tested" / "ptq")
    assert tested.settings == record.settings
    assert tested.float_scores == record.float_scores
    assert not (folder / "tested" / "checkpoints").exists()


def test_the_last_checkpoint_is_the_last_epoch_even_if_the_best_is_the_first(folder: Path) -> None:
    first_is_best = ["--checkpoint.monitor", "step", "--checkpoint.mode", "min"]
    arguments = [*first_is_best, "--trainer.max_epochs", "3", "--run.dir", "run", "--wandb.mode", "disabled"]
    assert main(["fit", *SMALL, *arguments]) == 0
    steps = {path.stem: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("run/checkpoints/*")}
    assert steps == {"best": 2, "last": 6}


def test_a_run_can_be_resumed_in_its_folder(folder: Path) -> None:
    arguments = ["fit", *SMALL, "--run.dir", "run", "--wandb.mode", "disabled"]
    assert main(arguments) == 0
    assert main([*arguments, "--trainer.max_epochs", "2", "--ckpt_path", "run/checkpoints/last.ckpt"]) == 0
    content = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 4  # two epochs of two batches
    assert (folder / "run" / "ptq-2" / "records.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--trainer.max_epoch", "3"], "Did you mean `--trainer.max_epochs`?"),
        (["fit", "--data.batchsize", "3"], "Did you mean `batch_size`?"),
        (["fit", "--model.loss", "FocalLos"], "Did you mean `FocalLoss`?"),
        (["fit", "-c", "configs/regimes/focl.yaml"], "Did you mean 'regimes/focal.yaml'?"),
        (["fit", "--ptq.settings", "[w1a8]"], "`weight_bits` must be an integer in [2, 8] or None (float), got 1."),
        (["fit", "--data", "CIFAR100", "--data.root", "nowhere", "--data.download", "false"], "nowhere"),
        (["fit", "--data", "ImageFolder", "--data.root", "nowhere"], "nowhere"),
        (["fit", "--model.model.init_args.num_classes", "5"], "10 classes, got 5"),
        (
            ["fit", "--model.loss", "FocalLoss", "--model.loss.gamma", "-1"],
            "error: `gamma` must be a number in [0, inf)",
        ),
        (["fit", "--data.noise_std", "-1"], "error: `noise_std` must be at least 0 and finite, got -1.0."),
        (["fit", "--model.model", "qcal.models.torchvision_model", "--model.model.name", "resnet81"], "resnet18"),
        (["fit", "--model.weights", "nowhere.pt"], "nowhere.pt"),
        (["fit", "--ptq.network", "backbone"], "got 'backbone'. Its direct submodules are: model"),
        (["fit", "--model.model", "torch.nn.Identity"], "(N, C)"),
        (["fit", "--ptq.settings", "[w4a8-nope]"], "'nope' is not a word of a setting"),
        (["fit", "--ptq.settings", "[w4a8-keep=layer9.*]"], "must match a layer or stored tensor"),
        (["test", "--ptq.settings", "[w4a8-cle]", "--ptq.placement", "modules"], "which walks the network's graph"),
        (["fit", "--data.val_size", "5000"], "5000"),
        (["test", "--ckpt_path", "nowhere.ckpt"], "'nowhere.ckpt', which is not there"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: int | str | None = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("qcal: error:") == 1
    assert "Traceback" not in error
    assert "Union subtypes" not in error
    assert list(folder.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("mine")
    assert main(["fit", *SMALL, "--run.dir", "run"]) == 2
    assert "run holds a run already" in capsys.readouterr().err
    assert (folder / "run" / "config.yaml").read_text() == "mine"


def test_fast_dev_run_writes_nothing(folder: Path) -> None:
    assert main(["fit", *SMALL, "--trainer.fast_dev_run", "true"]) == 0
    print(list(folder.rglob("*")))
    assert list(folder.iterdir()) == []


def test_a_loss_is_known_by_its_short_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.loss", "FocalLoss", "--model.loss.gamma", "2", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["loss"]["class_path"] == "qcal.losses.FocalLoss"


def test_help_and_print_config_can_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for key in ("--ptq.settings", "--wandb.mode", "--run.name", "--checkpoint.monitor", "--model.weights"):
        assert key in text
    assert len(text.splitlines()) < 1000  # the parser alone names every module of torch, three times: 3,000 lines
    assert text.index("--ptq.settings") < text.index("--trainer.max_epochs")
    assert "qcal.losses.FocalLoss" in text
    assert "torch.nn.Softmax2d" not in text
    with pytest.raises(SystemExit):
        main(["fit", "-c", "configs/regimes/focal.yaml", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["loss"]["class_path"] == "qcal.losses.FocalLoss"
    assert config["data"]["class_path"] == "qcal.data.Digits"
