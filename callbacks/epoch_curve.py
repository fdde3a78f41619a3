"""Robustness over training: the figures of the studies between epochs, in a table and a picture."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from qcal.atomic import replacing
from qcal.plots import epoch_figure, save_figure
from qcal.robustness import Record

FILE = "epochs.csv"
_FIGURES = ("accuracy", "error_change", "swap_rate", "harmful", "beneficial", "ece", "overconfidence", "nll")


@dataclass
class EpochCurve:
    """Studies of one fit, in the order of the epochs.

    Attributes:
        rows: Per study and setting: `epoch` (counted from 1: how many were trained), `loader`, `setting` and figures.
    """

    rows: list[dict[str, float | int | str]] = field(default_factory=list)

    def add(self, epoch: int, loader: str, record: Record) -> None:
        """One more study."""
        scores = {} if record.float_scores is None else {"float": record.float_scores}
        for setting, values in {**scores, **record.settings}.items():
            figures = {name: getattr(values, name) for name in _FIGURES if hasattr(values, name)}
            self.rows.append({"epoch": epoch, "loader": loader, "setting": setting, **figures})

    def write(self, folder: Path) -> None:
        """Write `epochs.csv`, whole or not at all."""
        with replacing(folder / FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["epoch", "loader", "setting", *_FIGURES])
            writer.writeheader()
            writer.writerows(self.rows)

    def draw(self, folder: Path, settings: Sequence[str]) -> dict[str, Figure]:
        """Draw and save a picture for each loader: `epochs`, or `epochs-<loader>` for several; returns them by name."""
        figures = {}
        for loader in dict.fromkeys(str(row["loader"]) for row in self.rows):
            rows = [row for row in self.rows if row["loader"] == loader and row["setting"] in settings]
            by_setting = {setting: [row for row in rows if row["setting"] == setting] for setting in settings}
            figure = epoch_figure(
                {setting: [int(row["epoch"]) for row in each] for setting, each in by_setting.items() if each},
                swap_rate={s: [float(row["swap_rate"]) for row in each] for s, each in by_setting.items() if each},
                error_change={s: [float(r["error_change"]) for r in each] for s, each in by_setting.items() if each},
            )
            name = f"epochs-{loader}" if loader else "epochs"
            save_figure(figure, folder / "figures", name)
            figures[name] = figure
        return figures
