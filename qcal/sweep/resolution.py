"""Every planned run through the command line's own parser, before the first one starts."""

import io
import json
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any

from qcal.cli.arguments import complete_arguments
from qcal.sweep.config_hash import hash_config, without_places
from qcal.sweep.expansion import PlannedRun
from qcal.usage import UsageError


@dataclass(frozen=True)
class Run:
    """A run whose config was looked at.

    Attributes:
        name: Its name, and that of its folder.
        base: Name of its base, for guessing how long it takes.
        arguments: What it gives `fit`, apart from where it goes.
        config: The whole config that makes its figures: nested plain values.
        config_hash: Of `config`.
        max_epochs: Epochs it trains for; None where something else ends it.
    """

    name: str
    base: str
    arguments: tuple[str, ...]
    config: dict[str, Any]
    config_hash: str
    max_epochs: int | None


def resolve(planned: Iterable[PlannedRun], *, group: str) -> tuple[Run, ...]:
    """Parse every run's arguments and build its network, loss and data module once; nothing is trained or read.

    Args:
        planned: What the sweep file describes.
        group: Name of the sweep, which groups its runs in Weights & Biases.

    Returns:
        The runs, in the same order, each with its whole config and tags.

    Raises:
        UsageError: The command line would refuse a run; the message names it.
    """
    # Imported here: it takes Lightning and torch with it, and a misspelt sweep file need not wait for them.
    from qcal.cli.lightning_cli import build_parser

    parser = build_parser()
    return tuple(_resolve(run, group, parser) for run in planned)


def check_data(runs: Iterable[Run]) -> None:
    """Download and read each different data set once, and show two of its images to each different network.

    Several runs that start at one time would all download; and what is missing is to be known now.

    Args:
        runs: The runs that are to be started.

    Raises:
        UsageError: A data set is not there and cannot be had, or does not fit a network; the message names a run.
    """
    from qcal.cli.lightning_cli import build_parser
    from qcal.tasks import check_fit

    parser = build_parser()
    seen: set[str] = set()
    for run in runs:
        model = {key: value for key, value in run.config["model"].items() if key in ("model", "weights")}
        key = json.dumps([model, run.config["data"]], sort_keys=True)
        if key not in seen:
            seen.add(key)
            _, built = _parse(run.name, run.arguments, parser)
            _built(run.name, partial(check_fit, built.model, built.data, "fit"))


def _resolve(run: PlannedRun, group: str, parser: Any) -> Run:  # Any: the parser drags Lightning into annotations
    config, _ = _parse(run.name, run.arguments, parser)
    tags = [run.base, *([f"regime:{run.regime}"] if run.regime else [])]
    tags += [
        f"{part}:{_class_name(value)}"
        for part, value in (("model", config["model"]["model"]), ("data", config["data"]))
    ]
    wandb = config["wandb"]
    # What the user chose for Weights & Biases stays as it is.
    extra = [] if wandb["group"] else [f"--wandb.group={group}"]
    extra += [] if wandb["tags"] else [f"--wandb.tags={json.dumps(tags)}"]
    epochs = config["trainer"]["max_epochs"]
    kept = without_places(config)
    return Run(
        name=run.name,
        base=run.base,
        arguments=(*run.arguments, *extra),
        config=kept,
        config_hash=hash_config(kept),
        max_epochs=epochs if epochs and epochs > 0 else None,
    )


def _parse(name: str, arguments: Iterable[str], parser: Any) -> tuple[dict[str, Any], Any]:
    """The plain config of a run, and what its classes build. Any: plain values; Lightning's objects by key."""
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            parsed = parser.parse_args(complete_arguments(["fit", *arguments]))
    except (UsageError, SystemExit) as error:
        told = str(error) if isinstance(error, UsageError) else errors.getvalue().strip().removeprefix("qcal: error: ")
        raise _refused(name, told) from error
    plain = json.loads(parser.dump(parsed, skip_link_targets=False, skip_none=False, format="json"))["fit"]
    return plain, _built(name, lambda: parser.instantiate_classes(parsed).fit)


def _built(name: str, build: Callable[[], Any]) -> Any:  # Any: whatever it builds
    from qcal.cli.lightning_cli import INPUT_ERRORS
    from qcal.cli.parser import readable

    try:
        return build()
    except INPUT_ERRORS as error:
        raise _refused(name, readable(str(error))) from error


def _refused(name: str, message: str) -> UsageError:
    return UsageError(f"The run {name!r} would be refused, so none was started. {message}")


def _class_name(value: Any) -> str:  # Any: a subclass of the config, in full or by its name alone
    path = value["class_path"] if isinstance(value, dict) else str(value)
    return str(path).rpartition(".")[2]
