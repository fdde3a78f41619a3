"""A sweep multiplied out: one planned run for each combination."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from qcal.sweep.sweep_file import Choice, Sweep
from qcal.usage import UsageError


@dataclass(frozen=True)
class PlannedRun:
    """A run as the sweep file describes it, not yet looked at by the parser.

    Attributes:
        name: Base, regime, further values and seed, separated by commas; also the name of its folder.
        base: Name of its base.
        regime: Name of its regime; empty without one.
        arguments: What it gives `fit`, apart from where it goes.
    """

    name: str
    base: str
    regime: str
    arguments: tuple[str, ...]


def expand(sweep: Sweep) -> tuple[PlannedRun, ...]:
    """Multiply a sweep out: bases x regimes x grid x seeds, the seeds slowest, so that whole comparisons come first.

    Args:
        sweep: The axes.

    Returns:
        The runs, in the order they are started in.

    Raises:
        UsageError: Two runs have one name.

    Example:
        >>> from qcal.sweep.sweep_file import read_sweep
        >>> runs = expand(read_sweep("configs/sweeps/quickstart.yaml"))
        >>> len(runs), runs[0].name
        (15, 'default,dial=-1,seed=0')
    """
    _check_overrides(sweep)
    runs = [
        _planned(base, axes, seed, sweep.overrides)
        for seed in sweep.seeds
        for base, *axes in product(sweep.bases, sweep.regimes, *sweep.grid)
    ]
    _check_names(runs)
    return tuple(runs)


def choose(runs: Sequence[PlannedRun], patterns: Sequence[str]) -> tuple[PlannedRun, ...]:
    """The runs of which a part is wanted.

    Args:
        runs: All runs of the sweep.
        patterns: As of file names, each for whole names: `resnet20,*,seed=0`.

    Returns:
        Those whose name fits any pattern, in the same order; all without patterns.

    Raises:
        UsageError: A pattern fits none.

    Example:
        >>> from qcal.sweep.sweep_file import read_sweep
        >>> runs = expand(read_sweep("configs/sweeps/quickstart.yaml"))
        >>> [run.name for run in choose(runs, ["*dial=[01],seed=2"])]
        ['default,dial=0,seed=2', 'default,dial=1,seed=2']
    """
    for pattern in patterns:
        if not any(fnmatchcase(run.name, pattern) for run in runs):
            raise UsageError(
                f"`--only {pattern}` fits none of the {len(runs)} runs, which are called {runs[0].name!r} to "
                f"{runs[-1].name!r}. Write a whole name, or `*` for what may differ; `--dry-run` lists them all."
            )
    return tuple(run for run in runs if not patterns or any(fnmatchcase(run.name, pattern) for pattern in patterns))


def _planned(base: Choice, axes: Sequence[Choice], seed: int, overrides: Sequence[str]) -> PlannedRun:
    parts = [choice.name for choice in (base, *axes) if choice.name]
    arguments = (*_combined(base, axes, overrides), f"--seed_everything={seed}")
    return PlannedRun(",".join([*parts, f"seed={seed}"]), base.name, axes[0].name, arguments)


def _combined(base: Choice, axes: Sequence[Choice], overrides: Sequence[str]) -> list[str]:
    """Configs first, for a config lays its values over what stands before it; then the more particular, the later."""
    configs, values = _split(base)
    values += overrides
    for choice in axes:
        more_configs, more_values = _split(choice)
        configs, values = configs + more_configs, values + more_values
    return configs + values


def _split(choice: Choice) -> tuple[list[str], list[str]]:
    """The arguments that name configs (`-c`, file, ...), and the others."""
    values = [argument for argument in choice.arguments if argument.startswith("--")]
    return [argument for argument in choice.arguments if not argument.startswith("--")], values


def _check_overrides(sweep: Sweep) -> None:
    """An override of what an axis varies would be undone by it."""
    varied = {_key(part) for axis in (sweep.regimes, *sweep.grid) for choice in axis for part in _split(choice)[1]}
    for key in map(_key, sweep.overrides):
        if key in varied:
            raise UsageError(
                f"`{key}` is both overridden for all runs and varied by `regimes` or `grid`. Leave one of the two out."
            )


def _key(argument: str) -> str:
    return argument.partition("=")[0].removeprefix("--")


def _check_names(runs: Sequence[PlannedRun]) -> None:
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        other = seen.setdefault(run.name, run)
        if other is run:
            continue
        if other.arguments == run.arguments:
            raise UsageError(f"The run {run.name!r} is listed twice. Leave out what the sweep file repeats.")
        raise UsageError(
            f"Two different runs have the name {run.name!r}:\n  fit {' '.join(other.arguments)}\n"
            f"  fit {' '.join(run.arguments)}\nGive one of them a name of its own, as in `bases: {{small: "
            "configs/default.yaml}` or `regimes: [{mine: overlays/focal.yaml}]`."
        )
