"""A study in a Weights & Biases run: figures on axes of their own, tables, pictures, a summary and artifacts.

No row names a step. Weights & Biases drops a row whose step is behind its own, so each kind of figure has an axis of
its own instead, which nothing else moves:

| key                                | axis                 | summary        |
|------------------------------------|----------------------|----------------|
| `ptq/<setting>/<figure>`           | `ptq/epoch`          | the last study |
| `ptq/epochs/<setting>/<figure>`    | `ptq/epoch`          | none           |
| `ptq/settings/<figure>`            | `ptq/setting_index`  | none           |

A study between epochs is a point of a curve and logs the second kind alone: what the summary says is what a whole study
found. Every metric is defined by its full name, because of two patterns that fit (Lightning defines `*`) the wrong one
may win.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qcal.callbacks.wandb_artifacts import Uploads, log_study_artifacts
from qcal.callbacks.wandb_tables import settings_table, swap_curve_table
from qcal.robustness import Comparison, Record, Study

STEP = "trainer/global_step"
"""Lightning's axis, which every row holds."""
_FIGURES = frozenset(column.name for column in fields(Comparison))
_PROVENANCE = ("weights", "split", "num_images", "errors")


@dataclass(frozen=True)
class WholeStudy:
    """What there is of a study besides its record, when it is the record of a run and not a point of a curve.

    Attributes:
        folder: Where its files are.
        study: The logits; None without them.
        uploads: Which files become artifacts.
        loader: Name of the loader it compared on; empty if there is one.
        ends_curve: Whether studies between epochs came before, whose curve it ends.
    """

    folder: Path
    study: Study | None = None
    uploads: Uploads = field(default_factory=Uploads)
    loader: str = ""
    ends_curve: bool = False


@dataclass(frozen=True)
class WandbStudy:
    """One study on its way to a run.

    Attributes:
        logger: Lightning's, of either of its packages (Any: its `experiment` is declared by no common class).
        record: What was measured.
        metrics: The record as `<prefix>/<setting>/<figure>`.
        prefix: Before every key.
        step: The trainer's global step.
        epoch: Epochs trained so far.
    """

    logger: Any
    record: Record
    metrics: Mapping[str, float]
    prefix: str
    step: int
    epoch: int

    def point(self) -> list[Callable[[], object]]:
        """What to do for a study between epochs."""
        return [self._log_curve]

    def whole(self, whole: WholeStudy) -> list[Callable[[], object]]:
        """What to do for the study of a run; each may fail without the others."""
        steps: list[Callable[[], object]] = [self._log_metrics]
        if whole.ends_curve:
            steps.append(self._log_curve)
        steps += [self._log_settings, partial(self._log_tables, whole.study), self._summarize]
        return [*steps, partial(self._log_artifacts, whole)]

    @property
    def run(self) -> Any:  # Any: of wandb, whose package is imported only where it is used
        """The run; where it cannot be begun, what is asked of it fails and the other loggers go on."""
        return self.logger.experiment

    def _log_metrics(self) -> None:
        self._define(self.metrics, f"{self.prefix}/epoch")
        self._log(self.metrics)

    def _log_curve(self) -> None:
        """One more point of the curves over training."""
        named = {f"{self.prefix}/epochs{key.removeprefix(self.prefix)}": value for key, value in self.metrics.items()}
        self._define(named, f"{self.prefix}/epoch", summary="none")
        self._log(named)

    def _log_settings(self) -> None:
        """Curves over the grid: a row a setting. A later study of the run has its own, so that no curve turns back."""
        done = int(self.run.summary.get(f"{self.prefix}/studies", 0))
        suffix = f"-{done + 1}" if done else ""
        axis, columns = f"{self.prefix}/setting_index{suffix}", settings_table(self.record)
        names = {name: f"{self.prefix}/settings{suffix}/{name}" for name in columns[0] if name != "setting"}
        self._define(names.values(), axis, summary="none")
        for index, row in enumerate(columns[1]):
            cells = dict(zip(columns[0], row, strict=True))
            values = {key: cells[name] for name, key in names.items() if cells[name] is not None}
            self.run.log({**values, axis: index, STEP: self.step})
        self.run.summary.update({f"{self.prefix}/studies": done + 1})

    def _log_tables(self, study: Study | None) -> None:
        import wandb  # here, because only a project that logs to it needs it

        tables = {"settings": settings_table(self.record)} if self.record.settings else {}
        if study is not None and study.compared.settings:
            tables["swap_curves"] = swap_curve_table(study.compared)
        if tables:
            # `list`: wandb takes columns of text or numbers in one list, which is invariant.
            made = {name: wandb.Table(columns=list(columns), data=rows) for name, (columns, rows) in tables.items()}
            self._log({f"{self.prefix}/{name}": table for name, table in made.items()})

    def _log_artifacts(self, whole: WholeStudy) -> None:
        log_study_artifacts(self.run, self.record, whole.folder, whole.uploads, loader=whole.loader)

    def _summarize(self) -> None:
        """Say what this study found; what only an earlier one did is taken out, or it would pass for this one's."""
        summary = self.run.summary
        texts = {f"{self.prefix}/{name}": text for name, text in _provenance(self.record).items()}
        for key in list(summary.keys()):
            if self._is_own(key) and key not in self.metrics and key not in texts:
                del summary[key]
        summary.update({**self.metrics, **texts})

    def _is_own(self, key: str) -> bool:
        """Whether a study of this prefix writes the key: `<prefix>/<setting>/<figure>`, or what it is of."""
        first, *rest = key.removeprefix(f"{self.prefix}/").split("/")
        if not key.startswith(f"{self.prefix}/"):
            return False
        return first in _PROVENANCE if not rest else len(rest) == 1 and rest[0] in _FIGURES

    def _log(self, values: Mapping[str, Any]) -> None:  # Any: numbers, tables
        self.run.log({**values, f"{self.prefix}/epoch": self.epoch, STEP: self.step})

    def _define(self, names: Iterable[str], axis: str, **options: str) -> None:
        define_metrics(self.run, names, axis, **options)


def define_metrics(run: Any, names: Iterable[str], axis: str, **options: Any) -> None:
    """Put metrics of a wandb run on an axis, which itself is not drawn. Any: a run, and what `define_metric` takes."""
    run.define_metric(axis, hidden=True)
    for name in names:
        run.define_metric(name, step_metric=axis, **options)


def log_figures_to_wandb(logger: Any, figures: Mapping[str, Figure], *, step: int) -> None:
    """Log pictures by their full names, in one row. Any: Lightning's logger, as above."""
    import wandb  # as above

    logger.experiment.log({**{name: wandb.Image(figure) for name, figure in figures.items()}, STEP: step})


def _provenance(record: Record) -> dict[str, Any]:
    """What a summary's figures are of, and what is missing among them."""
    context = record.context
    found = {"weights": context.get("weights"), "num_images": context.get("num_images")}
    found["split"] = context.get("data", {}).get("split")
    found["errors"] = "; ".join(f"{what}: {error}" for what, error in record.errors.items()) or None
    return {name: value for name, value in found.items() if value is not None}
