"""All settings of a study, analysed from its logits alone, with and without held-out images."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from qcal.robustness import (
    Logits,
    Recalibration,
    Study,
    analyse,
    analyse_probabilities,
    analyse_swaps,
    build_record,
    read_analysis,
    read_logits,
    read_noise_logits,
    read_recalibration_logits,
    write_analysis,
    write_logits,
)


def _logits(size: int, seed: int) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    plain = 3 * torch.randn(size, 5, generator=generator)
    target = torch.multinomial(plain.softmax(dim=1), 1, generator=generator).squeeze(1)
    noisy = {
        name: plain + std * torch.randn(size, 5, generator=generator) for name, std in (("w8a8", 0.1), ("w3a3", 2.0))
    }
    return Logits(target, plain, noisy)


def test_each_setting_has_the_analyses_of_its_logits() -> None:
    compared, aside = _logits(300, seed=0), _logits(100, seed=1)
    analysis = analyse(compared, aside, resamples=200)
    pair = (aside.float, aside.settings["w3a3"])
    swaps = analyse_swaps(compared.float, compared.settings["w3a3"], compared.target, held_out=pair, resamples=200)
    probabilities = analyse_probabilities(
        compared.float,
        compared.settings["w3a3"],
        compared.target,
        recalibration=Recalibration(aside.float, aside.settings["w3a3"], aside.target),
        resamples=200,
    )
    assert list(analysis.swaps) == list(analysis.probabilities) == ["w8a8", "w3a3"]
    assert analysis.swaps["w3a3"] == swaps
    assert analysis.probabilities["w3a3"] == probabilities
    assert "w3a3" in analysis.answers["w3a3"][1]


def test_training_images_measure_noise_and_fit_no_temperature() -> None:
    analysis = analyse(_logits(300, seed=0), noise_images=_logits(100, seed=1), resamples=50)
    assert analysis.swaps["w3a3"].forecast is not None
    assert analysis.probabilities["w3a3"].repair is None
    assert len(analysis.answers["w3a3"]) == 1


def test_a_setting_that_held_out_logits_lack_is_analysed_without() -> None:
    aside = _logits(100, seed=1)
    del aside.settings["w3a3"]
    analysis = analyse(_logits(300, seed=0), aside, resamples=50)
    assert analysis.swaps["w8a8"].forecast is not None
    assert analysis.swaps["w3a3"].forecast is None


def test_the_logits_file_suffices_and_the_analysis_is_read_back(tmp_path: Path) -> None:
    study = Study(_logits(300, seed=0), recalibration=_logits(100, seed=1), noise_images=None)
    path = write_logits(study, tmp_path / "logits.npz")
    again = analyse(read_logits(path), read_recalibration_logits(path), read_noise_logits(path), resamples=50)
    assert again == analyse(study.compared, study.recalibration, resamples=50)
    write_analysis(again, tmp_path)
    assert read_analysis(tmp_path) == json.loads(json.dumps(asdict(again)))
    share = read_analysis(tmp_path)["swaps"]["w3a3"]["shares"]["swapped"]["share"]
    assert share == build_record(study).settings["w3a3"].swap_rate


def test_noise_images_are_kept_in_the_logits_file(tmp_path: Path) -> None:
    noise = _logits(40, seed=2)
    path = write_logits(Study(_logits(30, seed=0), noise_images=noise), tmp_path / "logits.npz")
    kept = read_noise_logits(path)
    assert kept is not None
    assert torch.equal(kept.settings["w3a3"], noise.settings["w3a3"])
    assert read_recalibration_logits(path) is None
    assert len(read_logits(path)) == 30


def test_a_missing_analysis_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Make it from `logits.npz` with `qcal.robustness.analyse`"):
        read_analysis(tmp_path)
