"""The paper's own network and test set, at the paper's settings, against what its authors' code gives on them.

Quantizers stand where theirs do (`placement="xia2021"`), and ranges come from as many augmented training images. Which
images and crops those were is not known. Another draw of crops, or a hair's difference in the search for a range, moves
the swap share: at w8a8 3.61 to 3.91 % were seen (theirs 4.16), at w6a8 7.86 and 8.06 % (7.70). Hence tolerances of 15 %
of the share at 8 and 7 bits, where few swap, and of 8 % at 6; weights alone and fewer bits agree to 3 %.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qcal.models import CifarResNet, load_weights
from qcal.quantization import Plan, Setting, prepare

pytestmark = pytest.mark.slow

NUM_RANGE_IMAGES = 1152
# Tolerance of the signal-to-noise ratio of the logits, which is steadier than a count of swaps; seen: 0.3 at most.
DECIBELS = 0.4
# Setting -> (key of the reference, tolerance of the error in points, tolerance of the swap share relative to itself).
SETTINGS: dict[str, tuple[str, float, float]] = {
    "w8a8-mse-full-out": ("W8A8", 0.3, 0.15),
    "w7a8-mse-full-out": ("W7A8", 0.3, 0.15),
    "w6a8-mse-full-out": ("W6A8", 0.3, 0.08),
    "w5a8-mse-full-out": ("W5A8", 0.3, 0.03),
    "w4a8-mse-full-out": ("W4A8", 0.4, 0.03),
    "w8a8-full-out": ("W8A8_minmax", 0.3, 0.15),
    "w7a8-full-out": ("W7A8_minmax", 0.3, 0.15),
    "w6a8-full-out": ("W6A8_minmax", 0.3, 0.08),
    "w5a8-full-out": ("W5A8_minmax", 0.3, 0.03),
    "w4a8-full-out": ("W4A8_minmax", 0.4, 0.03),
    "w8afp-full": ("W8Afp", 0.2, 0.03),
    "w6afp-full": ("W6Afp", 0.2, 0.03),
    "w4afp-full": ("W4Afp", 0.3, 0.03),
}


@dataclass(frozen=True)
class Study:
    """The plan of the paper's network, and the test set with its logits at every setting."""

    plan: Plan
    target: Tensor
    eager: Tensor
    logits: dict[Setting, Tensor]

    def error_percent(self, logits: Tensor) -> float:
        return 100 * (logits.argmax(1) != self.target).double().mean().item()

    def swap_percent(self, logits: Tensor) -> float:
        float_prediction = self.logits[Setting(None, None)].argmax(1)
        return 100 * (logits.argmax(1) != float_prediction).double().mean().item()

    def noise_ratio(self, logits: Tensor) -> float:
        signal = self.logits[Setting(None, None)].double()
        return (10 * torch.log10(signal.pow(2).sum() / (logits.double() - signal).pow(2).sum())).item()


def _images(path: Path, count: int | None = None) -> tuple[Tensor, Tensor]:
    arrays = np.load(path)
    x = torch.from_numpy(arrays["x"][:count]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    return (x - mean[:, None, None]) / std[:, None, None], torch.from_numpy(arrays["y"][:count])


def _augmented(images: Tensor) -> Tensor:
    """Each image cropped at random out of itself with 4 black pixels around, and mirrored at random."""
    generator = torch.Generator().manual_seed(0)
    count, size = len(images), images.shape[-1]
    black = images.amin((0, 2, 3), keepdim=True).expand(count, -1, size + 8, size + 8).clone()
    black[:, :, 4:-4, 4:-4] = images
    corner = torch.randint(0, 9, (count, 2), generator=generator).tolist()
    crops = torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(black, corner, strict=True)])
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)


@pytest.fixture(scope="module")
def study(data_dir: Path) -> Study:
    network = CifarResNet(depth=20, num_classes=100)
    load_weights(network, data_dir / "xia2021_resnet20_cifar100.pt")
    network.eval()
    images, target = _images(data_dir / "cifar100_test.npz")
    plan = prepare(network, images, placement="xia2021")
    plan.observe(_augmented(_images(data_dir / "cifar100_train_0.npz", NUM_RANGE_IMAGES)[0]))
    batches = [plan.run_batch(["float", *SETTINGS], x) for x in torch.split(images, 256)]
    logits = {setting: torch.cat([batch[setting] for batch in batches]) for setting in batches[0]}
    with torch.no_grad():
        eager = torch.cat([network(x) for x in torch.split(images, 256)])
    return Study(plan, target, eager, logits)


@pytest.fixture(scope="module")
def reference(reference_dir: Path) -> dict[str, Any]:  # Any: JSON
    settings: dict[str, Any] = json.loads((reference_dir / "xia2021_resnet20_cifar100.json").read_text())["settings"]
    return settings


def test_the_float_network_is_that_of_the_paper(study: Study, reference: dict[str, Any], reference_dir: Path) -> None:
    folded = study.logits[Setting(None, None)]
    theirs = np.load(reference_dir / "xia2021_resnet20_logits.npz")
    assert torch.equal(torch.from_numpy(theirs["target"]).long(), study.target)
    assert study.error_percent(folded) == pytest.approx(33.38, abs=1e-9)
    assert study.error_percent(folded) == pytest.approx(reference["float"]["top1_error_argmax_pct"], abs=1e-9)
    for expected in (torch.from_numpy(theirs["float"]).float(), study.eager):
        assert (folded - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", SETTINGS)
def test_error_and_swaps_are_those_of_the_authors_code(study: Study, reference: dict[str, Any], name: str) -> None:
    key, points, share = SETTINGS[name]
    logits, expected = study.logits[Setting.parse(name)], reference[key]
    assert study.error_percent(logits) == pytest.approx(expected["top1_error_argmax_pct"], abs=points)
    assert study.swap_percent(logits) == pytest.approx(expected["swapped_pct"], rel=share)
    assert study.noise_ratio(logits) == pytest.approx(expected["logit_sqnr_db"], abs=DECIBELS)


def test_a_third_of_the_swaps_at_eight_bits_are_ties_in_the_quantized_logits(study: Study) -> None:
    logits = study.logits[Setting.parse("w8a8-mse-full-out")]
    before = study.logits[Setting(None, None)].argmax(1)
    largest = logits.amax(1)
    tied = (logits == largest[:, None]).sum(1) > 1
    swapped = logits.argmax(1) != before
    only_a_tie = swapped & (logits.gather(1, before[:, None]).squeeze(1) == largest)
    assert 250 <= int(tied.sum()) <= 400  # theirs: 322
    assert 120 <= int(only_a_tie.sum()) <= 200  # theirs: 160


def test_the_network_has_the_papers_quantizers(study: Study) -> None:
    names = [quantizer.name for quantizer in study.plan.quantizers]
    convolutions = [n for n in names if "conv" in n or "downsample" in n]
    assert (len(names), len(convolutions), sum("add" in n for n in names)) == (32, 21, 9)
    assert (names[0], names[-1]) == ("input", "fc")
    assert [norm.name for norm in study.plan.unfolded] == ["layer2.0.downsample.1", "layer3.0.downsample.1"]
