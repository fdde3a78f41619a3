"""What a run's config says of it in a few words: regime, model and data; and a hash of all else."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import qcal.losses
from qcal.losses.regime import RegimeLoss
from qcal.sweep.config_hash import hash_config

__all__ = ["BASELINE", "data_of", "model_of", "recipe_of", "regime_of"]

BASELINE = "cross-entropy"
"""The regime that every other one is compared with."""

Config = Mapping[str, Any]  # Any: the plain values of a YAML file

# A regime's words, and the arguments that follow them: `{name:+g}` shows the sign.
_LOSSES = {
    "BrierLoss": "Brier, mix {mix:g}",
    "ConfidenceDial": "dial {strength:+g}",
    "ConfidencePenaltyLoss": "confidence penalty {penalty_weight:g}",
    "DCALoss": "DCA {penalty_weight:g}",
    "DualFocalLoss": "dual focal {gamma:g}",
    "FLSDLoss": "FLSD {gamma:g}/{gamma_below_half:g}/{gamma_below_fifth:g}",
    "FocalLoss": "focal {gamma:g}",
    "InverseFocalLoss": "inverse focal {gamma:g}",
    "LabelSmoothingLoss": "label smoothing {epsilon:g}",
    "LogitNormLoss": "LogitNorm {tau:g}, mix {mix:g}",
    "MDCALoss": "MDCA {penalty_weight:g}",
    "MMCELoss": "MMCE {penalty_weight:g}, width {width:g}",
    "MarginLabelSmoothingLoss": "margin smoothing {margin:g}, {penalty_weight:g}",
    "MaxSupLoss": "MaxSup {penalty_weight:g}",
    "TrainingTemperatureLoss": "training T {temperature:g}",
}
_USUAL = (", mix 1", ", width 0.4")  # arguments not worth a word where they are as usual
_TRANSFORMS = {"MixUp": "mixup", "CutMix": "CutMix"}
_NO_FIGURE = ("run", "wandb", "ptq", "confidence", "temperature", "checkpoint", "ckpt_path", "weights_only")
_NO_FIGURE_OF_TRAINER = ("enable_progress_bar", "enable_model_summary", "logger", "log_every_n_steps", "devices")
_WHERE_DATA_IS = ("root", "path", "download", "num_workers", "eval_batch_size")


def regime_of(config: Config) -> str:
    """The regime of a run in a few words.

    A loss with its neutral arguments is cross-entropy, whatever its class; a transform of the batch is added.

    Args:
        config: The run's whole config, with `model.loss` and `model.batch_transform`.

    Returns:
        Such as `cross-entropy`, `label smoothing 0.1`, `dial +0.5` or `focal 3 + mixup 0.2`.

    Example:
        >>> loss = {"class_path": "qcal.losses.ConfidenceDial", "init_args": {"strength": 0.5}}
        >>> regime_of({"model": {"loss": loss}}), regime_of({"model": {"loss": {**loss, "init_args": {}}}})
        ('dial +0.5', 'cross-entropy')
    """
    model = config.get("model") or {}
    words = _loss_words(model.get("loss"))
    transform = model.get("batch_transform")
    if not transform:
        return words
    name, arguments = _component(transform)
    alpha = f" {arguments['alpha']:g}" if isinstance(arguments.get("alpha"), (int, float)) else ""
    added = f"{_TRANSFORMS.get(name, name)}{alpha}"
    return added if words == BASELINE else f"{words} + {added}"


def model_of(config: Config) -> str:
    """The network of a run in a few words: its class and the arguments that are not usual.

    Example:
        >>> network = {"class_path": "qcal.models.CifarResNet", "init_args": {"depth": 20, "num_classes": 100}}
        >>> model_of({"model": {"model": network}})
        'CifarResNet depth 20'
    """
    name, arguments = _component((config.get("model") or {}).get("model"))
    shown = [
        str(arguments[key]) if key == "name" else f"{key.replace('_', ' ')} {arguments[key]}"
        for key in ("name", "depth", "width")
        if arguments.get(key) is not None
    ]
    return " ".join([name, *shown])


def data_of(config: Config) -> str:
    """The data set of a run in a few words.

    Example:
        >>> data_of({"data": {"class_path": "qcal.data.Digits", "init_args": {"noise_std": 0.35}}})
        'Digits'
    """
    return _component(config.get("data"))[0]


def recipe_of(config: Config) -> str:
    """A short hash of everything that makes a run's figures except its regime, its seed and what was measured after it.

    Runs of one recipe and one seed differ in their regime alone, so that they can be paired.

    Example:
        >>> one = {"seed_everything": 0, "data": {"class_path": "qcal.data.Digits"}, "model": {"loss": 1}}
        >>> recipe_of(one) == recipe_of({**one, "seed_everything": 1, "model": {"loss": 2}})
        True
    """
    kept = {key: value for key, value in config.items() if key not in (*_NO_FIGURE, "seed_everything")}
    kept["model"] = {k: v for k, v in (kept.get("model") or {}).items() if k not in ("loss", "batch_transform")}
    kept["trainer"] = {k: v for k, v in (kept.get("trainer") or {}).items() if k not in _NO_FIGURE_OF_TRAINER}
    name, arguments = _component(kept.get("data"))
    kept["data"] = [name, {key: value for key, value in arguments.items() if key not in _WHERE_DATA_IS}]
    return hash_config(kept)


def _loss_words(loss: Any) -> str:  # Any: a value of a config
    if not loss:
        return BASELINE  # what the task trains with when nothing is said
    name, arguments = _component(loss)
    if name == "CrossEntropyLoss":
        smoothing = arguments.get("label_smoothing") or 0
        weighted = ", classes weighted" if arguments.get("weight") is not None else ""
        return (f"label smoothing {smoothing:g}" if smoothing else BASELINE) + weighted
    known = getattr(qcal.losses, name, None) if name in qcal.losses.__all__ else None
    if not (inspect.isclass(known) and issubclass(known, RegimeLoss)):
        shown = ", ".join(f"{key} {value}" for key, value in arguments.items() if value is not None)
        return f"{name} ({shown})" if shown else name
    defaults = {key: each.default for key, each in inspect.signature(known).parameters.items()}
    values = {**defaults, **arguments}
    if all(values[key] == value for key, value in known.neutral.items()):
        return BASELINE
    words = _LOSSES[name].format(**values)
    for usual in _USUAL:
        words = words.removesuffix(usual)
    return words


def _component(value: Any) -> tuple[str, dict[str, Any]]:  # Any: values of a config
    """Class name and arguments of `{class_path, init_args}`, of a bare class path, or of nothing."""
    if isinstance(value, Mapping) and "class_path" in value:
        return _last(str(value["class_path"])), dict(value.get("init_args") or {})
    return (_last(value), {}) if isinstance(value, str) else ("unknown", {})


def _last(path: str) -> str:
    return re.split(r"[.:]", path)[-1]
