"""The command line: `train.py`, `qcal` and `python -m qcal` are one and the same `main`."""

from qcal.cli.entry import main

__all__ = ["main"]
