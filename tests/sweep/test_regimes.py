"""Regimes as sweep files name them."""

from pathlib import Path

import pytest

from qcal.sweep.regimes import read_regimes
from qcal.usage import UsageError

FILE = Path("sweep.yaml")


def test_a_strength_turns_the_one_argument_of_a_regime() -> None:
    (low, high) = read_regimes([{"focal": [0.5, 2]}], FILE)
    assert low == ("focal=0.5", ("-c", "configs/regimes/focal.yaml", "--model.loss.init_args.gamma=0.5"))
    assert high[0] == "focal=2"


def test_a_regime_of_several_arguments_is_turned_by_name() -> None:
    ((name, arguments),) = read_regimes([{"margin_label_smoothing": {"margin": [5.0]}}], FILE)
    assert (name, arguments[-1]) == ("margin_label_smoothing=5", "--model.loss.init_args.margin=5.0")


def test_a_regime_of_the_batch_is_turned_where_it_is() -> None:
    ((_, arguments),) = read_regimes([{"mixup": {"alpha": [0.4]}}], FILE)
    assert arguments[-1] == "--model.batch_transform.init_args.alpha=0.4"


def test_an_overlay_of_ones_own_has_its_files_name_or_another(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("model: {loss: {class_path: torch.nn.CrossEntropyLoss}}")
    assert read_regimes([str(overlay), {"ours": str(overlay)}], FILE) == [
        ("mine", ("-c", str(overlay))),
        ("ours", ("-c", str(overlay))),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("label_smothing", r"no regime 'label_smothing'.*Did you mean 'label_smoothing'\?"),
        ({"dail": [1]}, r"no regime 'dail'.*Did you mean 'dial'\?"),
        ("overlays/none.yaml", r"There is no config 'overlays/none.yaml'"),
        ({"margin_label_smoothing": [1]}, r"does not say which of its arguments to turn: margin, penalty_weight"),
        ({"dial": {"strenght": [1]}}, r"`dial` has no argument `strenght`.*It has: strength.*Did you mean 'strength'"),
        ({"dial": ["high"]}, r"strengths must be numbers, got 'high'"),
        ({"dial": []}, r"must be a name .*got \{'dial'"),
        ({"dial": 1}, r"must be a name .*got \{'dial': 1\}"),
        (7, r"must be a name .*got 7"),
    ],
)
def test_a_regime_that_is_none_is_told_what_there_is(entry: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_regimes([entry], FILE)
