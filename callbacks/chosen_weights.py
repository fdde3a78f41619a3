"""Which weights a study measures: the last ones of a fit, averaged or not, or the best checkpoint's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

WeightsName = Literal["last", "best"]

_AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")
_COMPILED = "_orig_mod."


@dataclass(frozen=True)
class ChosenWeights:
    """Weights of a LightningModule.

    Attributes:
        described: In words, for the record.
        state_dict: Of the whole module; None for those it has now.
    """

    described: str
    state_dict: Mapping[str, Tensor] | None = None

    def load_into(self, network: nn.Module) -> None:
        """Give a copy of a part of the module these weights; its names are those of the whole.

        Raises:
            ValueError: The checkpoint lacks some of them.
        """
        if self.state_dict is None:
            return
        found = {name.replace(_COMPILED, ""): value for name, value in self.state_dict.items()}
        wanted = {name: name.replace(_COMPILED, "") for name in network.state_dict()}
        missing = [name for name in wanted.values() if name not in found]
        if missing:
            raise ValueError(
                f"The {self.described} lacks {len(missing)} tensors of the network, for example {missing[0]!r}. "
                "Pass `weights='last'`, the weights at the end of training."
            )
        network.load_state_dict({name: found[plain] for name, plain in wanted.items()})


def choose_weights(trainer: Trainer, which: WeightsName) -> ChosenWeights:
    """The weights to measure at the end of a fit.

    Args:
        trainer: After a fit.
        which: `last`: those the module has, which Lightning's averaging callbacks have replaced by their averages;
            `best`: those of the first checkpoint callback that watches a metric.

    Raises:
        ValueError: There is no best checkpoint.
    """
    if which == "last":
        averaging = [type(callback).__name__ for callback in trainer.callbacks if _is_any(callback, _AVERAGING)]  # type: ignore[attr-defined]  # set by a connector of Lightning
        return ChosenWeights(f"last, averaged by {averaging[0]}" if averaging else "last")
    watching = best_checkpoint_callback(trainer)
    path = "" if watching is None else watching.best_model_path
    if not path:
        raise ValueError(
            "`weights='best'` needs a checkpoint that ModelCheckpoint(monitor=...) wrote, but there is none. Let it "
            "save at least once, or pass `weights='last'`."
        )
    # weights_only=False: this run wrote the file, and hyperparameters of the user's may be objects.
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    return ChosenWeights(f"best checkpoint, {watching.monitor} = {float(watching.best_model_score):.6g}, {path}", state)


def tested_weights(trainer: Trainer) -> ChosenWeights:
    """The weights that a stand-alone evaluation runs on: those the trainer loaded, or the module came with."""
    path = trainer.ckpt_path
    return ChosenWeights("those the module came with" if path is None else f"checkpoint {path}")


def best_checkpoint_callback(trainer: Trainer) -> Any:
    """The first checkpoint callback with a `monitor`; None if there is none. Any: of either package of Lightning."""
    return next((each for each in trainer.checkpoint_callbacks if getattr(each, "monitor", None) is not None), None)


def _is_any(callback: object, names: tuple[str, ...]) -> bool:
    """By name: Lightning's two packages have a class each."""
    return any(kind.__name__ in names for kind in type(callback).__mro__)
