"""What recalibration repaired, for people: a table of every setting, and one sentence that answers the question."""

from collections.abc import Mapping

from qcal.robustness.change_words import change_with_interval, how_it_stands, in_nats, in_percent
from qcal.robustness.repair import ProbabilityRepair, RepairMethod, RepairOutcome

__all__ = ["METHOD_WORDS", "repair_answer", "repair_table", "temperature_words"]

METHOD_WORDS: dict[RepairMethod, str] = {
    "none": "as quantized",
    "float_temperature": "float temperature",
    "refitted_temperature": "refitted temperature",
    "noise_temperature": "noise temperature",
}
"""The methods, in the words of tables and pictures."""

_HEAD = (
    "network",
    "probabilities",
    "temperature",
    "ECE, %",
    "above recalibrated float (95 % interval)",
    "NLL, nats",
    "above recalibrated float (95 % interval)",
)


def repair_answer(repair: ProbabilityRepair, *, setting: str = "the quantized network") -> str:
    """Whether "train overconfident, quantize, then recalibrate" leaves the dilemma behind: one sentence of figures.

    Args:
        repair: The figures.
        setting: What to call the quantized network.

    Returns:
        What the refitted temperature left, beside the recalibrated float network, and what follows from it: the dilemma
        is left behind where the ECE is not distinguishable from that network's, or lower.

    Example:
        >>> import torch
        >>> from qcal.robustness import Recalibration, analyse_probabilities
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 4 * torch.randn(2000, 10, generator=generator)
        >>> target = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator).squeeze(1)
        >>> noisy = logits + torch.randn(2000, 10, generator=generator)
        >>> halves = [part.split(1000) for part in (logits, noisy, target)]
        >>> held_out, compared = zip(*halves)
        >>> analysis = analyse_probabilities(*compared, recalibration=Recalibration(*held_out))
        >>> repair_answer(analysis.repair, setting="w4a8")[:60]
        'One temperature (2.24) takes the ECE of w4a8 from 23.3 to 3.'
    """
    refitted = repair.outcome("refitted_temperature")
    ece, nll = refitted.ece_gap, refitted.nll_gap
    began = (
        f"One temperature ({repair.refitted_temperature:.2f}) takes the ECE of {setting} from "
        f"{in_percent(refitted.ece.before)} to {in_percent(ece.after)} %, {how_it_stands(ece, in_percent)} the "
        f"{in_percent(ece.before)} % of the float network recalibrated likewise, and its NLL from "
        f"{in_nats(refitted.nll.before)} to {in_nats(nll.after)} nats, {how_it_stands(nll, in_nats)} that network's "
        f"{in_nats(nll.before)}"
    )
    if ece.low is None:
        return f"{began}; there are too few images to tell whether the dilemma is left behind."
    if ece.direction == "rose":
        return f"{began}: recalibrating after quantization leaves a part of the dilemma."
    if nll.direction == "rose":
        return (
            f"{began}: recalibrating after quantization leaves the dilemma behind as far as calibration goes; what "
            "remains is information that quantization took, which no temperature brings back."
        )
    return f"{began}: recalibrating after quantization leaves the dilemma behind."


def repair_table(repairs: Mapping[str, ProbabilityRepair]) -> str:
    """The outcomes of every setting as a Markdown table, each gap to the recalibrated float network with its interval.

    Args:
        repairs: Setting to its figures; the float network is that of the first.

    Returns:
        One line a row: the float network as trained and recalibrated, then each method of each setting.

    Raises:
        ValueError: there is no setting.
    """
    if not repairs:
        raise ValueError("`repairs` must hold at least one setting, got none. Pass {'w4a8': analysis.repair}.")
    first = next(iter(repairs.values()))
    raw = (in_percent(first.float_ece), "", in_nats(first.float_nll), "")
    goal = (in_percent(first.recalibrated_float_ece), "0", in_nats(first.recalibrated_float_nll), "0")
    rows: list[tuple[str, ...]] = [
        ("float", "as trained", "1.00", *raw),
        ("float", "recalibrated", f"{first.float_temperature:.2f}", *goal),
    ]
    for setting, repair in repairs.items():
        rows += [(setting, *_outcome_row(outcome)) for outcome in repair.outcomes]
    lines = [f"| {' | '.join(cells)} |" for cells in (_HEAD, *rows)]
    return "\n".join([lines[0], "|---" * len(_HEAD) + "|", *lines[1:]])


def _outcome_row(outcome: RepairOutcome) -> tuple[str, ...]:
    return (
        METHOD_WORDS[outcome.method],
        temperature_words(outcome),
        in_percent(outcome.ece.after),
        change_with_interval(outcome.ece_gap, in_percent),
        in_nats(outcome.nll.after),
        change_with_interval(outcome.nll_gap, in_nats),
    )


def temperature_words(outcome: RepairOutcome) -> str:
    """The temperature of a method, or its range over the images."""
    low, high = f"{outcome.lowest_temperature:.2f}", f"{outcome.highest_temperature:.2f}"
    return low if low == high else f"{low} to {high}"
