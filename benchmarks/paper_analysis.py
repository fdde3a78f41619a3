"""What the analysis says of the paper's own network: swaps foretold, and probabilities repaired, at each setting.

The logits are those of the authors' code for ResNet20 on the CIFAR-100 test set. Rows 0 to 4,999 are held out to
measure noise and to fit temperatures, the rest are compared. Pass the folder that holds `xia2021_resnet20_logits.npz`:

    PYTHONPATH=. python benchmarks/paper_analysis.py --reference ../shared/reference
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from qcal.robustness import Logits, analyse, repair_table

HELD_OUT = 5000
SETTINGS = ("w8a8", "w7a8", "w6a8", "w5a8", "w4a8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="folder of the authors' logits")
    folder: Path = parser.parse_args().reference
    with np.load(folder / "xia2021_resnet20_logits.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    aside, compared = (_rows(tensors, part) for part in (slice(0, HELD_OUT), slice(HELD_OUT, None)))
    analysis = analyse(compared, aside)
    print("| setting | swapped, % | forecast, % | AUROC of the forecast | of the confidence | of the margin |")
    print("|---|---|---|---|---|---|")
    for name, swaps in analysis.swaps.items():
        forecast = swaps.forecast
        assert forecast is not None
        rates = f"{100 * forecast.swap_rate.measured:.1f} | {100 * forecast.swap_rate.predicted:.1f}"
        scores = [forecast.auroc, *(swaps.foresight[score].auroc for score in ("confidence", "margin"))]
        print(f"| {name} | {rates} | {' | '.join('-' if each is None else f'{each:.3f}' for each in scores)} |")
    repairs = {name: each.repair for name, each in analysis.probabilities.items() if each.repair is not None}
    print(f"\n{repair_table(repairs)}\n")
    for sentences in analysis.answers.values():
        print("\n".join(sentences), "\n")


def _rows(tensors: dict[str, torch.Tensor], rows: slice) -> Logits:
    settings = {name: tensors[name][rows].float() for name in SETTINGS}
    return Logits(tensors["target"][rows].long(), tensors["float"][rows].float(), settings)


if __name__ == "__main__":
    main()
