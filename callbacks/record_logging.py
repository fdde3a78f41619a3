"""Send a record's figures to whatever loggers a trainer has."""

from collections.abc import Iterable
from dataclasses import asdict

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from qcal.robustness import Record


def log_record(loggers: Iterable[Logger], record: Record, figures: dict[str, Figure], *, step: int) -> None:
    """Log every figure as `ptq/<setting>/<name>` to every logger; table, pictures and summary to Weights & Biases too.

    Args:
        loggers: Of the trainer.
        record: What was measured.
        figures: Name to picture.
        step: The trainer's global step.
    """
    metrics = flat_metrics(record)
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        # By name: Lightning's two packages have a class each, and wandb may not be installed.
        if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
            _log_to_wandb(logger, record, metrics, figures)


def flat_metrics(record: Record) -> dict[str, float]:
    """`ptq/float/<figure>` and `ptq/<setting>/<figure>`; figures that are undefined are left out."""
    rows = {"float": asdict(record.float_scores), **{name: asdict(c) for name, c in record.settings.items()}}
    return {
        f"ptq/{setting}/{name}": value
        for setting, row in rows.items()
        for name, value in row.items()
        if value is not None
    }


def _log_to_wandb(logger: Logger, record: Record, metrics: dict[str, float], figures: dict[str, Figure]) -> None:
    import wandb  # here, because only a project that logs to it needs it

    run = logger.experiment  # type: ignore[attr-defined]  # every concrete logger has it, the base class does not declare it
    columns: list[str | int] = ["setting", *asdict(next(iter(record.settings.values())))]
    rows = [[name, *asdict(comparison).values()] for name, comparison in record.settings.items()]
    run.log(
        {
            "ptq/settings": wandb.Table(columns=columns, data=rows),
            **{f"ptq/{name}": wandb.Image(figure) for name, figure in figures.items()},
        }
    )
    run.summary.update(metrics)
