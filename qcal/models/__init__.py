"""Networks to train: CIFAR ResNets, torchvision's by name, and what it takes to load and to check any other."""

from qcal.models.cifar_resnet import BasicBlock, CifarResNet
from qcal.models.from_torchvision import torchvision_model
from qcal.models.scalers import TemperatureScaler, VectorScaler
from qcal.models.shape_check import check_logits
from qcal.models.weights import load_weights

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "TemperatureScaler",
    "VectorScaler",
    "check_logits",
    "load_weights",
    "torchvision_model",
]
