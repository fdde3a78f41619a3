"""Every packaged config: parsed on the base it is meant for, and the paper's run for real."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcal.cli import main
from qcal.cli.arguments import packaged_configs
from qcal.quantization import Setting
from qcal.robustness import read_record
from tests.configs.test_regimes import NoDuplicates

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _resolved(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:  # Any: a nesting of plain values
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *arguments, "--print_config"])
    assert exit_.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize("name", packaged_configs())
def test_each_config_parses_and_has_no_key_twice(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    written = yaml.load((CONFIGS / name).read_text(), NoDuplicates)
    config = _resolved(capsys, "-c", name)
    for group, values in written.items():
        if not isinstance(values, dict):
            assert config[group] == values
            continue
        for key, value in values.items():
            if not isinstance(value, dict):
                assert config[group][key] == value


@pytest.mark.parametrize("recipe", ["default.yaml", "cifar100_resnet20.yaml"])
def test_a_regime_changes_the_loss_of_a_recipe_and_nothing_else(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _resolved(capsys, "-c", recipe)
    focal = _resolved(capsys, "-c", recipe, "-c", "regimes/focal.yaml", "--model.loss.init_args.gamma", "2")
    assert focal["model"].pop("loss") == {"class_path": "qcal.losses.FocalLoss", "init_args": {"gamma": 2.0}}
    plain["model"].pop("loss")
    assert focal == plain


def test_every_setting_of_every_config_is_one() -> None:
    seen: Counter[str] = Counter()
    for name in packaged_configs():
        content = yaml.safe_load((CONFIGS / name).read_text())
        for text in content.get("ptq", {}).get("settings", []):
            assert str(Setting.parse(text)) == text
            seen[name] += 1
    assert len(seen) >= 4


# Key of the reference, tolerance of the error in points, tolerance of the swap share relative to itself. The authors'
# images for range estimation were augmented and shuffled, and their shortcuts keep batch norm: equality is not owed.
PAPER = {
    "w8a8-mse-full-out": ("W8A8", 0.6, 0.2),
    "w7a8-mse-full-out": ("W7A8", 0.6, 0.2),
    "w6a8-mse-full-out": ("W6A8", 0.6, 0.1),
    "w5a8-mse-full-out": ("W5A8", 0.6, 0.1),
    "w4a8-mse-full-out": ("W4A8", 1.0, 0.1),
}


@pytest.mark.slow
def test_the_papers_network_gives_the_papers_figures(
    data_dir: Path, reference_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["test", "-c", "xia2021_resnet20_cifar100.yaml", "--data.root", str(data_dir)]
    arguments += ["--model.weights", str(data_dir / "xia2021_resnet20_cifar100.pt")]
    assert main([*arguments, "--run.dir", "run", "--wandb.mode", "disabled", "--trainer.accelerator", "cpu"]) == 0
    record = read_record(tmp_path / "run" / "ptq")
    reference = json.loads((reference_dir / "xia2021_resnet20_cifar100.json").read_text())["settings"]
    assert record.float_scores is not None
    assert 1 - record.float_scores.accuracy == pytest.approx(0.3338, abs=1e-12)
    assert 100 * record.float_scores.ece == pytest.approx(reference["float"]["ece15_pct"], abs=0.01)
    assert record.context["range_estimation_images"] == 1152
    assert list(record.settings) == list(PAPER)
    for name, (key, points, share) in PAPER.items():
        ours, theirs = record.settings[name], reference[key]
        assert 100 * (1 - ours.accuracy) == pytest.approx(theirs["top1_error_argmax_pct"], abs=points), name
        assert 100 * ours.swap_rate == pytest.approx(theirs["swapped_pct"], rel=share), name
        # The logits are quantized: of the swaps some are ties and nothing else (160 of their 416 at w8a8).
        assert 0.01 <= ours.swaps_by_tie <= 0.02, name
        assert ours.swaps_by_tie <= ours.ties <= 0.05, name


@pytest.mark.slow
def test_the_recipe_of_cifar100_trains_on_npz_files(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "-c", "cifar100_resnet20.yaml", "-c", "data/cifar100_npz.yaml", "--data.root", str(data_dir)]
    arguments += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
    arguments += ["--ptq.settings", "[w8a8]", "--ptq.max_batches", "2", "--data.val_size", "128"]
    assert main([*arguments, "--run.dir", "run", "--wandb.mode", "disabled"]) == 0
    record = read_record(tmp_path / "run" / "ptq")
    assert {name: each.num_images for name, each in record.settings.items()} == {"w8a8": 256}
    roles = record.context["data"]["roles"]
    # The archive's images and their roles: 45,000 of the 50,000 are left to train on, but for a smaller val.
    assert (roles["train"]["size"], roles["test"]["size"]) == (50_000 - 2_500 - 128, 10_000)
