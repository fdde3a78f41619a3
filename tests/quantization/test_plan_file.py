"""A plan's statistics survive the disk, and are refused where they do not belong."""

import json
from pathlib import Path

import pytest
import torch

from qcal.quantization import Plan, prepare
from tests.quantization.networks import tiny_images, tiny_resnet

SETTINGS = [
    "w8a8",
    "w4a4-mse",
    "w4a6-pct",
    "w4a4-ema",
    "w4a4-kl",
    "w3afp-bc",
    "w4a4-cle",
    "w4a4-cle-ema",
    "w4a4-cle-bc",
]


@pytest.fixture
def observed() -> Plan:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(48), equalized=True, batch_size=16)
    return plan


def test_a_loaded_plan_gives_the_same_logits_bit_for_bit(observed: Plan, tmp_path: Path) -> None:
    observed.save(tmp_path / "plan")
    loaded = prepare(tiny_resnet(), tiny_images())
    loaded.load(tmp_path / "plan")
    images = tiny_images(8, seed=5)
    for setting in SETTINGS:
        assert torch.equal(loaded.run(setting, images), observed.run(setting, images)), setting
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == ["plan.json", "plan.safetensors"]


def test_loading_replaces_what_was_observed(observed: Plan, tmp_path: Path) -> None:
    images = tiny_images(8, seed=5)
    expected = observed.run("w4a4-cle", images)
    observed.save(tmp_path)
    observed.observe(10 * tiny_images(48), equalized=True)
    assert not torch.equal(observed.run("w4a4-cle", images), expected)
    observed.load(tmp_path)
    assert torch.equal(observed.run("w4a4-cle", images), expected)


def test_a_plan_of_other_weights_is_refused_by_what_differs(observed: Plan, tmp_path: Path) -> None:
    observed.save(tmp_path)
    network = tiny_resnet()
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    other = prepare(network, tiny_images())
    with pytest.raises(ValueError, match=r"must be of the same network, .* with other weights_sha256\. Prepare"):
        other.load(tmp_path)
    assert other.statistics == {}


def test_a_plan_that_observed_nothing_has_nothing_to_save(tmp_path: Path) -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    with pytest.raises(ValueError, match=r"must have observed images to be saved, got none\. Call `plan\.observe"):
        plan.save(tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_missing_files_are_named(observed: Plan, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got no plan\.json in "):
        observed.load(tmp_path)
    observed.save(tmp_path)
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no plan\.safetensors in "):
        observed.load(tmp_path)


def test_files_of_two_writings_are_refused(observed: Plan, tmp_path: Path) -> None:
    observed.save(tmp_path / "a")
    observed.observe(2 * tiny_images(48))
    observed.save(tmp_path / "b")
    (tmp_path / "b" / "plan.safetensors").replace(tmp_path / "a" / "plan.safetensors")
    with pytest.raises(ValueError, match="must be of one writing"):
        observed.load(tmp_path / "a")


def test_another_version_of_the_files_is_refused(observed: Plan, tmp_path: Path) -> None:
    observed.save(tmp_path)
    about = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**about, "format_version": 99}))
    with pytest.raises(ValueError, match="must have format version 2, got 99"):
        observed.load(tmp_path)


def test_a_loaded_plan_without_a_sample_says_what_its_methods_need(tmp_path: Path) -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(48), sample_size=0)
    plan.save(tmp_path)
    plan.load(tmp_path)
    assert plan.run("w4a8", tiny_images(4)).shape == (4, 5)
    for setting, method in {"w4a8-bc": "bias_correction", "w4a8-ada": "adaround"}.items():
        with pytest.raises(ValueError, match=rf"`{method}` looks at images, got none\. Call `plan\.observe"):
            plan.run(setting, tiny_images(4))


def test_loading_a_plan_without_equalized_ranges_drops_those_there_were(observed: Plan, tmp_path: Path) -> None:
    plain = prepare(tiny_resnet(), tiny_images())
    plain.observe(tiny_images(48))
    plain.save(tmp_path)
    observed.load(tmp_path)
    assert observed.equalized_statistics == {}
    with pytest.raises(ValueError, match=r"Call `plan\.observe\(images, equalized=True\)`"):
        observed.run("w4a8-cle", tiny_images(4))
