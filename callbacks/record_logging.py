"""Send a record's figures to whatever loggers a trainer has."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from qcal.callbacks.wandb_logging import WandbStudy, WholeStudy, log_figures_to_wandb
from qcal.robustness import Record


def log_record(
    loggers: Iterable[Logger],
    record: Record,
    figures: Mapping[str, Figure],
    *,
    step: int,
    epoch: int,
    prefix: str = "ptq",
    whole: WholeStudy | None = None,
) -> list[Exception]:
    """Log every figure as `<prefix>/<setting>/<name>` to every logger, and pictures to those that take them.

    Weights & Biases gets more, and in its own way: see `qcal.callbacks.wandb_logging`.

    Args:
        loggers: Of the trainer.
        record: What was measured.
        figures: Name to picture.
        step: The trainer's global step.
        epoch: Epochs trained so far.
        prefix: Before every name.
        whole: The rest of a study that is the record of a run; None for a point of a curve over training.

    Returns:
        What loggers failed with: one that does is no reason to leave out the others.
    """
    metrics, failures = flat_metrics(record, prefix), []
    for logger in loggers:
        if _is_a(logger, "WandbLogger"):
            study = WandbStudy(logger, record, metrics, prefix, step, epoch)
            failures += _attempt(study.point() if whole is None else study.whole(whole))
        else:
            failures += _attempt([partial(logger.log_metrics, metrics, step)])
    return failures + log_figures(loggers, figures, step=step, prefix=prefix)


def log_figures(
    loggers: Iterable[Logger], figures: Mapping[str, Figure], *, step: int, prefix: str = "ptq"
) -> list[Exception]:
    """Send pictures to the loggers that take them; returns what those failed with."""
    return [failure for logger in loggers for failure in _attempt(_senders(logger, figures, step, prefix))]


def flat_metrics(record: Record, prefix: str = "ptq") -> dict[str, float]:
    """`<prefix>/float/<figure>` and `<prefix>/<setting>/<figure>`; figures that are undefined are left out."""
    rows = {name: asdict(comparison) for name, comparison in record.settings.items()}
    if record.float_scores is not None:
        rows["float"] = asdict(record.float_scores)
    return {
        f"{prefix}/{setting}/{name}": value
        for setting, row in rows.items()
        for name, value in row.items()
        if value is not None
    }


def _senders(
    logger: Logger, figures: Mapping[str, Figure], step: int, prefix: str
) -> list[Callable[[], Any]]:  # Any: what a logger returns is not used
    named = {f"{prefix}/{name}": figure for name, figure in figures.items()}
    if not named:
        return []
    if _is_a(logger, "WandbLogger"):
        return [partial(log_figures_to_wandb, logger, named, step=step)]
    # Any: what is behind a logger is its own package's, which is imported only where it is used.
    experiment: Any = getattr(logger, "experiment", None)
    if _is_a(logger, "TensorBoardLogger"):
        # Left open, for the loggers that come after it.
        return [partial(experiment.add_figure, name, figure, step, close=False) for name, figure in named.items()]
    if _is_a(logger, "MLFlowLogger"):
        run_id: Any = getattr(logger, "run_id", None)
        return [partial(experiment.log_figure, run_id, figure, f"{name}.png") for name, figure in named.items()]
    return []


def _attempt(senders: Iterable[Callable[[], Any]]) -> list[Exception]:
    failures: list[Exception] = []
    for send in senders:
        try:
            send()
        except Exception as error:  # of whatever is behind a logger: a server, a disk
            failures.append(error)
    return failures


def _is_a(logger: Logger, name: str) -> bool:
    """By name: Lightning's two packages have a class of each logger, and what is behind it may not be installed."""
    return any(kind.__name__ == name for kind in type(logger).__mro__)
