"""Generated predictions that the tests of the scores share."""

import torch
from hypothesis import strategies as st
from torch import Tensor


def random_logits(
    num_samples: int = 500, num_classes: int = 10, scale: float = 3.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits `(N, C)` and targets `(N,)`; three targets in five are the prediction."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_samples, num_classes, generator=generator)
    target = torch.randint(num_classes, (num_samples,), generator=generator)
    right = torch.arange(num_samples) % 5 < 3
    target[right] = logits.argmax(dim=1)[right]
    return logits, target


def calibrated(num_samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences uniform in [0, 1] and predictions that are right exactly that often."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(num_samples, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(num_samples, generator=generator, dtype=torch.float64) < confidence


@st.composite
def top_label(draw: st.DrawFn, min_size: int = 1) -> tuple[Tensor, Tensor]:
    """Confidences `(N,)` float32 with exact 0, 1, bin edges and ties among them, and correctness `(N,)`."""
    value = st.one_of(
        st.floats(0, 1, width=32),
        st.sampled_from([0.0, 1.0, 0.2, 0.5, 0.6]),
        st.integers(0, 15).map(lambda step: step / 15),
    )
    confidence = draw(st.lists(value, min_size=min_size, max_size=40))
    correct = draw(st.lists(st.booleans(), min_size=len(confidence), max_size=len(confidence)))
    return torch.tensor(confidence, dtype=torch.float32), torch.tensor(correct)
