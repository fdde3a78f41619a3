"""What the user left out of the arguments: the subcommand, the base config, the folder of the packaged configs."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from qcal.usage import UsageError

SUBCOMMANDS = ("fit", "validate", "test", "predict")
# Those that are not Lightning's and have arguments of their own.
TOOLS = ("sweep", "report")
_CONFIG_FLAGS = ("-c", "--config")
_SWEEPS = "sweeps/"


def complete_arguments(given: Sequence[str]) -> list[str]:
    """Put in what was left out.

    - No subcommand means `fit`.
    - `default.yaml` goes first unless a given config names its own `data`: such a config is a recipe and stands alone,
      one without is an
      overlay (a regime, say).
    - A config that is not found from here is looked up among the packaged ones: `regimes/focal.yaml`, with or without
      `configs/` before it.

    Args:
        given: The arguments after the program's name.

    Returns:
        The arguments for the parser.

    Raises:
        UsageError: A subcommand or a config that does not exist, or a config that is not YAML.

    Example:
        >>> arguments = complete_arguments(["--seed_everything", "1"])
        >>> arguments[0], arguments[1], Path(arguments[2]).name, arguments[3:]
        ('fit', '-c', 'default.yaml', ['--seed_everything', '1'])
    """
    rest = list(given)
    if rest[:1] in (["-h"], ["--help"]):
        return rest
    subcommand = rest.pop(0) if rest and not rest[0].startswith("-") else "fit"
    if subcommand not in SUBCOMMANDS:
        raise UsageError(
            f"There is no subcommand {subcommand!r}. Choose one of: "
            f"{', '.join((*SUBCOMMANDS, *TOOLS))}.{did_you_mean(subcommand, (*SUBCOMMANDS, *TOOLS))}"
        )
    rest, configs = _locate_configs(rest)
    base = [] if any("data" in _read(path) for path in configs) else ["-c", str(_packaged("default.yaml"))]
    return [subcommand, *base, *rest]


def packaged_configs() -> list[str]:
    """Names of a run's configs that come with qcal, relative to their folder, for example `regimes/focal.yaml`."""
    return [name for name in _packaged_files() if not name.startswith(_SWEEPS)]


def packaged_sweeps() -> list[str]:
    """Names of the sweeps that come with qcal, relative to the configs' folder, for example `sweeps/dilemma.yaml`."""
    return [name for name in _packaged_files() if name.startswith(_SWEEPS) and not name.endswith(".wandb.yaml")]


def _packaged_files() -> list[str]:
    root = _packaged("")
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def _locate_configs(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """The arguments with every config's path made findable, and these paths."""
    located, paths = list(arguments), []
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in _CONFIG_FLAGS:
            continue
        if equals:
            path = locate_config(value)
            located[position] = f"{flag}={path}"
        elif position + 1 < len(arguments):
            path = locate_config(arguments[position + 1])
            located[position + 1] = str(path)
        else:
            raise UsageError(f"`{flag}` needs a file after it. Packaged configs: {', '.join(packaged_configs())}.")
        paths.append(path)
    return located, paths


def locate_config(name: str, kind: str = "config", packaged: Sequence[str] | None = None) -> Path:
    """Where a config is: as it is written, seen from here, or among the packaged ones.

    Args:
        name: Its path, or its name among the packaged ones, with or without `configs/` before it.
        kind: What to call it in the error.
        packaged: The packaged ones it may be; those of a run when not given.

    Returns:
        The file's path.

    Raises:
        UsageError: There is no such file.

    Example:
        >>> locate_config("configs/regimes/focal.yaml").name
        'focal.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    known = packaged_configs() if packaged is None else packaged
    short = name.removeprefix("./").removeprefix("configs/")
    if short in known:
        return _packaged(short)
    raise UsageError(
        f"There is no {kind} {name!r}, neither from {Path.cwd()} nor among the packaged ones: "
        f"{', '.join(known)}."
        f"{did_you_mean(short, known)}"
    )


def _packaged(name: str) -> Path:
    return Path(str(files("qcal.configs"))) / name


def _read(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}. Mend the line it names.") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} must hold keys such as `model:` and `data:`, got {type(content).__name__}. See "
            "`--print_config` for all keys."
        )
    return content


def did_you_mean(given: str, allowed: Sequence[str]) -> str:
    """A sentence with the nearest of the allowed words, or nothing.

    Example:
        >>> did_you_mean("fitt", SUBCOMMANDS)
        " Did you mean 'fit'?"
    """
    close = difflib.get_close_matches(given, allowed, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
