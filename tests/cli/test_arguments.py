from pathlib import Path

import pytest

from qcal.cli.arguments import complete_arguments, packaged_configs
from qcal.usage import UsageError


def _names(arguments: list[str]) -> list[str]:
    return [Path(argument).name if argument.endswith(".yaml") else argument for argument in arguments]


def test_nothing_means_fit_with_the_default_config() -> None:
    assert _names(complete_arguments([])) == ["fit", "-c", "default.yaml"]


def test_an_overlay_goes_on_top_of_the_default() -> None:
    given = ["fit", "-c", "configs/regimes/cross_entropy.yaml"]
    assert _names(complete_arguments(given)) == ["fit", "-c", "default.yaml", "-c", "cross_entropy.yaml"]


def test_a_config_with_its_own_data_stands_alone() -> None:
    given = ["test", "--config=configs/cifar100_resnet20.yaml", "--trainer.max_epochs", "1"]
    completed = complete_arguments(given)
    assert completed[0] == "test"
    assert completed[1].endswith("cifar100_resnet20.yaml")
    assert completed[2:] == given[2:]


def test_packaged_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("configs/quantization/weights_only.yaml", "quantization/weights_only.yaml"):
        assert Path(complete_arguments(["-c", name])[-1]).is_file()
    assert "default.yaml" in packaged_configs()


def test_the_users_own_file_wins_over_a_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("default.yaml").write_text("data: Digits\n")
    assert complete_arguments(["fit", "-c", "default.yaml"]) == ["fit", "-c", "default.yaml"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fitt"], r"There is no subcommand 'fitt'. Choose one of: fit, .*Did you mean 'fit'\?"),
        (
            ["fit", "-c", "configs/regimes/cros_entropy.yaml"],
            r"There is no config .*regimes/cross_entropy.yaml.*Did you mean 'regimes/cross_entropy.yaml'\?",
        ),
        (["fit", "-c"], r"`-c` needs a file after it"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complete_arguments(given)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- a", "must hold keys such as")])
def test_a_config_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        complete_arguments(["-c", str(tmp_path / "broken.yaml")])
