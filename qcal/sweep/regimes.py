"""Regimes as a sweep file names them: an overlay, or an overlay turned to several strengths."""

from pathlib import Path
from typing import Any

import yaml

from qcal.cli.arguments import did_you_mean, locate_config, packaged_configs
from qcal.usage import UsageError

_FOLDER = "regimes/"
NamedArguments = tuple[str, tuple[str, ...]]


def read_regimes(entries: Any, path: Path) -> list[NamedArguments]:  # Any: whatever the file holds
    """The regimes of a sweep file, with the arguments that select each.

    Args:
        entries: What stands under `regimes`: names (`focal`), paths of overlays of one's own, `name: path`, or a name
            with strengths (`dial: [-1, 0, 1]`, `margin_label_smoothing: {margin: [5, 10]}`).
        path: The sweep file, for errors.

    Returns:
        Name and arguments of each, in the file's order.

    Raises:
        UsageError: A regime or an argument of it does not exist, or an entry is none of the above.

    Example:
        >>> for name, arguments in read_regimes(["focal", {"dial": [-0.5, 1]}], Path("sweep.yaml")):
        ...     print(name, *arguments)
        focal -c configs/regimes/focal.yaml
        dial=-0.5 -c configs/regimes/dial.yaml --model.loss.init_args.strength=-0.5
        dial=1 -c configs/regimes/dial.yaml --model.loss.init_args.strength=1
    """
    found: list[NamedArguments] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):
            found.append((Path(entry).stem, ("-c", _overlay(entry))))
        elif isinstance(entry, dict) and len(entry) == 1 and all(isinstance(name, str) for name in entry):
            ((name, value),) = entry.items()
            found += _named(name, value, path)
        else:
            raise _no_regime(entry, path)
    return found


def _named(name: str, value: Any, path: Path) -> list[NamedArguments]:  # Any: whatever the file holds
    if isinstance(value, str):
        return [(name, ("-c", _overlay(value)))]
    overlay = _overlay(name)
    strengths = _strengths_by_key(overlay)
    if isinstance(value, list):
        if len(strengths) != 1:
            raise UsageError(
                f"`{name}: {value}` in {path} does not say which of its arguments to turn: {', '.join(strengths)}. "
                f"Write for example `{name}: {{{next(iter(strengths), 'argument')}: {value}}}`."
            )
        value = {next(iter(strengths)): value}
    if not isinstance(value, dict) or len(value) != 1 or not all(isinstance(v, list) and v for v in value.values()):
        raise _no_regime({name: value}, path)
    ((key, values),) = value.items()
    if key not in strengths:
        raise UsageError(
            f"The regime `{name}` has no argument `{key}` (in {path}). It has: {', '.join(strengths)}."
            f"{did_you_mean(str(key), list(strengths))}"
        )
    return [(f"{Path(name).stem}={one:g}", ("-c", overlay, f"--{strengths[key]}={one}")) for one in _numbers(values)]


def _numbers(values: list[Any]) -> list[int | float]:
    for value in values:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UsageError(f"A regime's strengths must be numbers, got {value!r}. Write 0.001 rather than 1e-3.")
    return values


def _overlay(name: str) -> str:
    """The config that a regime is, as `-c` takes it."""
    if name.endswith((".yaml", ".yml")):
        locate_config(name)
        return name
    known = [entry.removeprefix(_FOLDER).removesuffix(".yaml") for entry in packaged_configs() if _FOLDER in entry]
    if name not in known:
        raise UsageError(
            f"There is no regime {name!r}. There are: {', '.join(known)}; or give the path of an overlay of your own, "
            f"ending in .yaml.{did_you_mean(name, known)}"
        )
    return f"configs/{_FOLDER}{name}.yaml"


def _strengths_by_key(overlay: str) -> dict[str, str]:
    """Argument -> dotted key, for the arguments that an overlay's component sets to a number."""
    content = yaml.safe_load(locate_config(overlay).read_text(encoding="utf-8"))
    keys: dict[str, str] = {}
    for part, value in content.get("model", {}).items():
        arguments = value.get("init_args", {}) if isinstance(value, dict) else {}
        numbers = [key for key, number in arguments.items() if isinstance(number, (int, float))]
        keys |= {key: f"model.{part}.init_args.{key}" for key in numbers}
    return keys


def _no_regime(entry: Any, path: Path) -> UsageError:
    return UsageError(
        f"An entry of `regimes` in {path} must be a name (`focal`), the path of an overlay, `name: path`, or a name "
        f"with strengths (`dial: [-1, 0, 1]`), got {entry!r}."
    )
