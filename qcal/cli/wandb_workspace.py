"""Create the panel layout of `docs/wandb.md` in a Weights & Biases project.

    python -m qcal.cli.wandb_workspace --entity <user or team> --project qcal --settings w8a8 w6a6 w4a4

It is a command of the package, and not a script beside it, so that a project that only attached a callback has it too.
The layout is data, which `--print` shows without a network; `wandb-workspaces`, the public package for workspaces,
turns it into panels.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qcal.usage import UsageError, report_error

PanelKind = Literal["lines", "scatter", "bars", "pictures", "table"]


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: `lines` over `x`, one a run and key; `scatter`, one dot a run; `bars`, one a run and key; `pictures` or a
            `table` that runs logged.
        title: Above it.
        keys: What is drawn, as it is logged.
        x: What it is drawn over; empty where there is no such axis.
        y_title: Of the other axis; the keys when empty.
    """

    kind: PanelKind
    title: str
    keys: tuple[str, ...]
    x: str = ""
    y_title: str = ""


@dataclass(frozen=True)
class Section:
    """Panels that answer one question.

    Attributes:
        name: The question.
        panels: In reading order.
        columns: Panels beside each other.
    """

    name: str
    panels: tuple[Panel, ...]
    columns: int = 3


def lay_out(settings: Sequence[str], prefix: str = "ptq") -> list[Section]:
    """The layout for a grid.

    Args:
        settings: The settings to follow, as the runs measured them: two or three that matter are easier to read than
            all.
        prefix: Before the keys of a study: `ptq`, or `ptq/<loader>` where there are several loaders.

    Returns:
        The sections, from the question between runs to the details of one.

    Raises:
        ValueError: No setting.

    Example:
        >>> [section.name for section in lay_out(["w4a8"])][0]
        'Does confidence before predict what breaks?'
    """
    if not settings:
        raise ValueError("`settings` must name at least one setting, got none. Pass those of the runs, such as w4a8.")
    return [
        Section("Does confidence before predict what breaks?", _dilemma(settings, prefix)),
        Section("At which setting does a network break?", _grid(prefix)),
        Section("When in training?", _training(settings, prefix)),
        Section("On which predictions?", _predictions(prefix), columns=2),
        Section("Does recalibration repair the probabilities?", _temperature(prefix)),
    ]


def _dilemma(settings: Sequence[str], prefix: str) -> tuple[Panel, ...]:
    """One dot a run: overconfidence in float against what a setting did."""
    x, shown = f"{prefix}/float/overconfidence", {"error_change": "Error change", "swap_rate": "Swap rate"}
    return tuple(
        Panel("scatter", f"{title} at {setting} against overconfidence in float", (f"{prefix}/{setting}/{name}",), x)
        for setting in settings
        for name, title in shown.items()
    )


def _grid(prefix: str) -> tuple[Panel, ...]:
    shown = {
        "error_change": "Error change (fraction of all predictions)",
        "swap_rate": "Swap rate (fraction of all predictions)",
        "damage_per_swap": "Damage per swap",
        "ece": "ECE, quantized",
        "overconfidence": "Overconfidence, quantized",
        "weight_bits": "Weight bits of the setting",
    }
    x = f"{prefix}/setting_index"
    return tuple(Panel("lines", title, (f"{prefix}/settings/{name}",), x) for name, title in shown.items())


def _training(settings: Sequence[str], prefix: str) -> tuple[Panel, ...]:
    after, shown = f"{prefix}/epoch", {"swap_rate": "Swap rate", "error_change": "Error change"}
    studies = tuple(
        Panel(
            "lines",
            f"{title} over training (every_n_epochs)",
            tuple(f"{prefix}/epochs/{setting}/{name}" for setting in settings),
            after,
            title,
        )
        for name, title in shown.items()
    )
    return (
        Panel("lines", "Accuracy, val", ("val/accuracy",), "epoch"),
        Panel("lines", "Loss of the regime", ("train/loss_epoch", "val/loss"), "epoch", "loss"),
        Panel("lines", "ECE, val", ("val/ece",), "epoch"),
        Panel(
            "lines",
            "Overconfidence on right and on wrong, val",
            ("confidence/overconfidence_on_correct", "confidence/overconfidence_on_wrong"),
            "epoch",
            "overconfidence",
        ),
        *studies,
    )


def _predictions(prefix: str) -> tuple[Panel, ...]:
    return (
        Panel("table", "Swaps by float confidence", (f"{prefix}/swap_curves",)),
        Panel("table", "All settings", (f"{prefix}/settings",)),
        Panel("pictures", "Swaps", (f"{prefix}/swaps",)),
        Panel("pictures", "Swaps by float confidence", (f"{prefix}/swap_curve",)),
        Panel("pictures", "Reliability", (f"{prefix}/reliability",)),
        Panel("pictures", "Reliability over training", ("confidence/reliability",)),
    )


def _temperature(prefix: str) -> tuple[Panel, ...]:
    return (
        Panel("bars", "Temperature", ("temperature/value",)),
        Panel("bars", "ECE before and after", ("temperature/ece_before", "temperature/ece_after")),
        Panel("bars", "NLL before and after", ("temperature/nll_before", "temperature/nll_after")),
        Panel("pictures", "Quantized, repaired", (f"{prefix}/repair",)),
    )


# Any: objects of wandb-workspaces, which is optional.
def build_workspace(entity: str, project: str, name: str, sections: Sequence[Section]) -> Any:
    """The workspace, not yet saved.

    Args:
        entity: User or team.
        project: The project.
        name: Of the view.
        sections: What it shows.

    Returns:
        A `wandb_workspaces.workspaces.Workspace`; `save()` creates it.

    Raises:
        UsageError: wandb-workspaces is not installed.
    """
    try:
        workspaces = importlib.import_module("wandb_workspaces.workspaces")
        panels = importlib.import_module("wandb_workspaces.reports.v2")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"A workspace is made with the package wandb-workspaces, which is not there ({error}). Install it with "
            "`pip install wandb-workspaces`, or build the panels by hand: `--print` lists them."
        ) from error
    made = [
        workspaces.Section(
            name=section.name,
            panels=[_made(panels, panel) for panel in section.panels],
            is_open=True,
            layout_settings=workspaces.SectionLayoutSettings(columns=section.columns, rows=2),
        )
        for section in sections
    ]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=made)


def _made(panels: Any, panel: Panel) -> Any:  # Any: as above
    keys = list(panel.keys)
    if panel.kind == "lines":
        return panels.LinePlot(title=panel.title, x=panel.x, y=keys, title_y=panel.y_title or None)
    if panel.kind == "scatter":
        x, y = panels.SummaryMetric(panel.x), panels.SummaryMetric(keys[0])
        return panels.ScatterPlot(title=panel.title, x=x, y=y, regression=True)
    if panel.kind == "bars":
        return panels.BarPlot(title=panel.title, metrics=keys)
    if panel.kind == "pictures":
        return panels.MediaBrowser(title=panel.title, media_keys=keys)
    return panels.WeavePanelSummaryTable(table_name=keys[0])


def describe(sections: Sequence[Section]) -> str:
    """The layout in words, to build it by hand."""
    lines: list[str] = []
    for section in sections:
        lines.append(section.name)
        for panel in section.panels:
            over = f" over {panel.x}" if panel.x else ""
            lines.append(f"  {panel.kind:8}  {panel.title}: {', '.join(panel.keys)}{over}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Create the workspace and print where it is, or print its layout.

    Args:
        argv: The arguments; those of the process when not given.

    Returns:
        0, or 2 after a mistake that was told in one message.
    """
    parser = argparse.ArgumentParser(prog="python -m qcal.cli.wandb_workspace", description=__doc__, add_help=True)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--entity", help="user or team the project belongs to")
    parser.add_argument("--project", default="qcal")
    parser.add_argument("--name", default="Confidence and quantization", help="of the view")
    parser.add_argument("--settings", nargs="+", default=["w8a8", "w4a4"], help="settings to follow")
    parser.add_argument("--prefix", default="ptq", help="of the keys: ptq, or ptq/<loader>")
    parser.add_argument("--print", action="store_true", dest="only_print", help="list the panels, create nothing")
    arguments = parser.parse_args(argv)
    sections = lay_out(arguments.settings, arguments.prefix)
    if arguments.only_print:
        print(describe(sections))
        return 0
    try:
        if not arguments.entity:
            raise UsageError(
                "`--entity` must name a user or a team, got none. It is before the project in its address."
            )
        workspace = build_workspace(arguments.entity, arguments.project, arguments.name, sections)
    except UsageError as error:
        report_error(str(error))
        return 2
    workspace.save()
    print(workspace.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
