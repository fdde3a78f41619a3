"""Lightning modules: what is trained, and how a batch becomes a loss."""

from qcal.tasks.check import check_fit
from qcal.tasks.classifier import Classifier

__all__ = ["Classifier", "check_fit"]
