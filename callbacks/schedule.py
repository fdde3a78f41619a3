"""When a study runs: once, after a fit that trained and ended well; in an evaluation that stands alone; every n epochs.

`on_fit_end` alone would not do: it also comes for a fit of no epochs, for one that was finished before it was resumed,
and under `fast_dev_run`.
"""

from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Trainer

InTest = Literal["alone", "always", "never"]


@dataclass
class Schedule:
    """What has happened so far, and what follows from it.

    Attributes:
        in_test: Whether `Trainer.test` and `Trainer.validate` are followed by a study: if no fit was studied before
            (`alone`), `always` or `never`.
        every_n_epochs: How often there is one during training; None for never.
    """

    in_test: InTest = "alone"
    every_n_epochs: int | None = None
    _armed: bool = False
    _first_step: int = 0
    _studied_in_fit: bool = False

    def fit_began(self) -> None:
        """What an earlier fit recorded no longer speaks for the weights."""
        self._armed = self._studied_in_fit = False

    def training_began(self, trainer: Trainer) -> None:
        """Remember where: only what moves on from here has trained."""
        self._armed, self._first_step = True, trainer.global_step

    def training_ended(self, trainer: Trainer) -> None:
        """Stay armed only if training moved."""
        self._armed = self._armed and trainer.global_step > self._first_step

    def broke(self) -> None:
        """An exception or an interrupt: there is nothing to record."""
        self._armed = False

    def fit_ended(self, trainer: Trainer) -> bool:
        """Whether a study follows."""
        armed, self._armed = self._armed, False
        self._studied_in_fit = armed and not trainer.interrupted
        return self._studied_in_fit

    def epoch_ended(self, trainer: Trainer) -> bool:
        """Whether a study of this epoch follows; the one at the end of the fit speaks for the last."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs is None or trainer.fast_dev_run or epoch % self.every_n_epochs:  # type: ignore[attr-defined]  # set by a connector of Lightning
            return False
        return epoch != trainer.max_epochs and self._armed

    def evaluation_ended(self) -> bool:
        """Whether a study follows a test or a validation that the user called."""
        return self.in_test == "always" or self.watches_evaluation

    @property
    def watches_evaluation(self) -> bool:
        """Whether an evaluation that the user calls is to be watched, so that it can be studied."""
        return self.in_test == "always" or (self.in_test == "alone" and not self._studied_in_fit)
