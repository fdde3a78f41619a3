"""Lightning callbacks: quantize when training ends, and say what confidence changed about it."""

if __name__ != "qcal.callbacks":
    raise ImportError(f"Import `qcal.callbacks`, not `{__name__}`: under two names every class would exist twice.")

from qcal.callbacks.confidence_monitor import ConfidenceMonitor
from qcal.callbacks.post_training_quantization import PostTrainingQuantization
from qcal.callbacks.temperature_scaling import Recalibration, TemperatureScaling
from qcal.callbacks.wandb_artifacts import Uploads

__all__ = ["ConfidenceMonitor", "PostTrainingQuantization", "Recalibration", "TemperatureScaling", "Uploads"]
