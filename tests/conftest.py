"""Fixtures every room's tests share."""

import os
from pathlib import Path

import pytest

# One thread: networks of tests are too small to share, and a process forked from one with an OpenMP pool (two-process
# tests, workers of loaders) waits for threads that it does not have, forever. Read when torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
# LightningCLI calls jsonargparse functions by names that jsonargparse is about to drop: nothing qcal can change.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import torch  # after the number of threads is set


@pytest.fixture(scope="session", autouse=True)
def first_backward() -> None:
    """Start the autograd engine before any network is traced.

    Tracing registers a further kind of device, for which the engine, if it starts later, makes a thread: a process
    forked from this one (two-process tests) could then not train.
    """
    torch.autograd.backward(torch.ones(1, requires_grad=True).sum())


def _shared(part: str) -> Path:
    """A folder of the reference material: beside the checkout, or where `QCAL_SHARED` says."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("QCAL_SHARED", beside)) / part
    if not folder.is_dir():
        pytest.skip(
            f"needs the reference material in ../shared/{part} (or QCAL_SHARED), which is not distributed with qcal"
        )
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Figures from the authors' own code and golden values from independent packages."""
    return _shared("reference")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real images and the paper's trained weights."""
    return _shared("data")
