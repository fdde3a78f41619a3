import pytest
import torch

from qcal.report.analysis_pictures import draw_analysis
from qcal.robustness import Logits, analyse
from tests.plots.texts import cut_off, smallest


def _logits(size: int, seed: int) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    plain = 3 * torch.randn(size, 5, generator=generator)
    target = torch.multinomial(plain.softmax(dim=1), 1, generator=generator).squeeze(1)
    names = (("w8a8", 0.1), ("w4a4-mse", 1.0), ("w3a3", 2.0))
    return Logits(target, plain, {name: plain + std * torch.randn(size, 5, generator=generator) for name, std in names})


@pytest.mark.parametrize("held_out", [True, False])
def test_what_was_measured_is_drawn_and_can_be_read(held_out: bool) -> None:
    analysis = analyse(_logits(400, seed=0), _logits(200, seed=1) if held_out else None, resamples=50)
    figures = draw_analysis(analysis)
    expected = {"swap_curve", "risk_coverage", "selective_fallback", "migration-w3a3"}
    assert set(figures) == expected | ({"forecast", "repair"} if held_out else set())
    for name, figure in figures.items():
        assert smallest(figure) >= 7.9, name
        assert not cut_off(figure), name
