"""Everything that the logits of a study say, setting by setting; from logits alone, so that old runs can be redone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qcal.atomic import replacing
from qcal.robustness.float_reference import float_reference
from qcal.robustness.logits import Logits
from qcal.robustness.probabilities import ProbabilityAnalysis, analyse_probabilities
from qcal.robustness.probability_words import what_was_hurt
from qcal.robustness.repair import Recalibration
from qcal.robustness.repair_words import repair_answer
from qcal.robustness.swap_analysis import SwapAnalysis, analyse_swaps

FILE = "analysis.json"
RESAMPLES = 2000
"""Bootstrap draws of an analysis: the ends of its 95 % intervals are then known to about 5 % of their width."""


@dataclass(frozen=True)
class Analysis:
    """What broke, and why, and what repairs it; see `analyse`.

    Attributes:
        swaps: Per setting, what changed in the predictions and the noise behind it.
        probabilities: Per setting, what changed in the probabilities, and what recalibration repairs.
        answers: Per setting, sentences made from the figures.
    """

    swaps: dict[str, SwapAnalysis]
    probabilities: dict[str, ProbabilityAnalysis]
    answers: dict[str, list[str]]


def analyse(
    compared: Logits,
    recalibration: Logits | None = None,
    noise_images: Logits | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Analysis:
    """Analyse every setting of a study.

    Args:
        compared: Logits on the compared images.
        recalibration: Logits on images that were neither trained nor compared on: temperatures are fitted and noise is
            measured on them. Without them there is no repair.
        noise_images: Logits on other images, training images too, to measure noise on where `recalibration` is not
            given. Without either there is no forecast.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    Returns:
        The analysis. A setting that the held-out logits lack is analysed without them.

    Raises:
        ValueError: Logits that are not finite, or targets out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 1.0]])
        >>> noisy = torch.tensor([[2.0, 0.0], [0.0, 0.1], [0.0, 1.0]])
        >>> analysis = analyse(Logits(torch.tensor([0, 0, 1]), logits, {"w4a8": noisy}))
        >>> analysis.swaps["w4a8"].shares.harmful.count
        1
    """
    reference = float_reference(compared.float, compared.target)
    held_out = recalibration or noise_images
    swaps: dict[str, SwapAnalysis] = {}
    probabilities: dict[str, ProbabilityAnalysis] = {}
    for name, logits in compared.settings.items():
        pair = (held_out.float, held_out.settings[name]) if held_out and name in held_out.settings else None
        swaps[name] = analyse_swaps(
            compared.float,
            logits,
            compared.target,
            held_out=pair,
            reference=reference,
            resamples=resamples,
            seed=seed,
        )
        aside = None
        if recalibration is not None and name in recalibration.settings:
            aside = Recalibration(recalibration.float, recalibration.settings[name], recalibration.target)
        probabilities[name] = analyse_probabilities(
            compared.float, logits, compared.target, recalibration=aside, resamples=resamples, seed=seed
        )
    return Analysis(swaps, probabilities, {name: _sentences(name, each) for name, each in probabilities.items()})


def write_analysis(analysis: Analysis, folder: str | Path) -> Path:
    """Write `analysis.json` beside a record, whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    text = json.dumps(asdict(analysis), allow_nan=False)
    with replacing(Path(folder) / FILE) as path:
        path.write_text(text + "\n", encoding="utf-8")
    return Path(folder) / FILE


def read_analysis(folder: str | Path) -> Mapping[str, Any]:
    """The figures of `write_analysis` as plain values (Any: JSON), laid out as `Analysis` is.

    Raises:
        FileNotFoundError: There is none; `analyse` makes one of the logits.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Make it from `logits.npz` with `qcal.robustness.analyse`.")
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _sentences(name: str, probabilities: ProbabilityAnalysis) -> list[str]:
    sentences = [what_was_hurt(probabilities, setting=name)]
    if probabilities.repair is not None:
        sentences.append(repair_answer(probabilities.repair, setting=name))
    return sentences
