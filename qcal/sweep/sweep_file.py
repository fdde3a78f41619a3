"""The sweep file: which configs, regimes, seeds and overrides to multiply out."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qcal.cli.arguments import did_you_mean, locate_config, packaged_sweeps
from qcal.sweep.regimes import read_regimes
from qcal.usage import UsageError

KEYS = ("name", "bases", "regimes", "grid", "seeds", "overrides")
# What a sweep gives each run itself.
_OWN_KEYS = ("run.name", "run.dir", "ckpt_path", "seed_everything", "config", "c", "print_config")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Choice:
    """One value of an axis.

    Attributes:
        name: Its part of the run's name.
        arguments: What it adds to the run's command line.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read: its axes, and what all runs share.

    Attributes:
        name: Name of the sweep: of its folder, and of the group in Weights & Biases.
        bases: Configs to start from.
        regimes: Overlays on top; one empty choice when the file names none.
        grid: Further axes, one for each key.
        seeds: Values of `seed_everything`.
        overrides: Arguments of all runs.
    """

    name: str
    bases: tuple[Choice, ...]
    regimes: tuple[Choice, ...]
    grid: tuple[tuple[Choice, ...], ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]


class _NoDuplicates(yaml.SafeLoader):  # type: ignore[misc]  # its base has no annotations
    """A loader that does not let the last of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # Any: as in the base
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [str(key) for position, key in enumerate(keys) if key in keys[:position]]
        if twice:
            raise UsageError(f"{node.start_mark.name} has `{twice[0]}` twice in one place. Keep one of the two.")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_sweep(file: str | Path, *, configs: Sequence[str] = (), overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a sweep file.

    Args:
        file: Its path, or the name of a packaged one (`sweeps/quickstart.yaml`).
        configs: Further configs for every run, laid over its base and under its regime.
        overrides: Further `KEY=VALUE` for every run; they win over the file's.

    Returns:
        The sweep.

    Raises:
        UsageError: It is not there, is not YAML, has a key that does not exist, names a config or a regime that does
            not exist, or describes no run.

    Example:
        >>> sweep = read_sweep("configs/sweeps/quickstart.yaml")
        >>> len(sweep.bases) * len(sweep.regimes) * len(sweep.seeds)
        15
    """
    path = locate_config(str(file), "sweep", packaged_sweeps())
    content = _load(path)
    if "program" in content:
        raise UsageError(f"{path} is a sweep of Weights & Biases. Start it with `wandb sweep {path}`.")
    for key in content:
        if key not in KEYS:
            raise UsageError(f"{path} has the unknown key `{key}`. Keys: {', '.join(KEYS)}.{did_you_mean(key, KEYS)}")
    _check_not_empty(content, path)
    for config in configs:
        locate_config(config)
    over = tuple(part for config in configs for part in ("-c", config))
    return Sweep(
        name=_checked_name(str(content.get("name", path.stem)), "The sweep's name"),
        bases=tuple(Choice(base.name, (*base.arguments, *over)) for base in _read_bases(content["bases"], path)),
        regimes=tuple(Choice(*parts) for parts in read_regimes(content["regimes"], path))
        if "regimes" in content
        else (Choice("", ()),),
        grid=tuple(_read_axis(key, values, path) for key, values in _mapping(content, "grid", path).items()),
        seeds=tuple(_read_seeds(content["seeds"], path)),
        overrides=(*read_overrides(_mapping(content, "overrides", path)), *map(_split_override, overrides)),
    )


def read_overrides(mapping: dict[str, Any]) -> tuple[str, ...]:  # Any: a value of a config, whatever it nests
    """Arguments for the keys of a mapping, as the command line takes them.

    Args:
        mapping: Dotted keys of a run's config and their values.

    Returns:
        One `--key=value` for each.

    Raises:
        UsageError: A key is one that the sweep itself gives each run.

    Example:
        >>> read_overrides({"trainer.max_epochs": 3, "ptq.settings": ["w8a8"], "trainer.precision": None})
        ('--trainer.max_epochs=3', '--ptq.settings=["w8a8"]', '--trainer.precision=null')
    """
    for key in mapping:
        if key in _OWN_KEYS:
            raise UsageError(
                f"`{key}` cannot be overridden: the sweep gives each run its own. Seeds go under `seeds`, configs "
                "under `bases` and `regimes`; the folder is `--dir`."
            )
    return tuple(f"--{key}={as_text(value)}" for key, value in mapping.items())


def as_text(value: Any) -> str:  # Any: a value of a config, whatever it nests
    """A config's value as one argument: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, _NoDuplicates)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}. Mend the line it names.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} must hold keys ({', '.join(KEYS)}), got {type(content).__name__}.")
    return content


def _check_not_empty(content: dict[str, Any], path: Path) -> None:
    for key, example in (("bases", "[configs/default.yaml]"), ("seeds", "[0, 1, 2]")):
        if key not in content:
            raise UsageError(f"{path} must say its `{key}`, and does not. Add for example `{key}: {example}`.")
    for key in ("bases", "regimes", "grid", "seeds"):
        if key in content and not content[key]:
            raise UsageError(
                f"{path} describes no run, because `{key}` is empty. List at least one value"
                f"{'' if key in ('bases', 'seeds') else ', or leave the key out'}."
            )


def _read_bases(entries: Any, path: Path) -> list[Choice]:  # Any: whatever the file holds
    if isinstance(entries, str):
        entries = [entries]
    if isinstance(entries, list):
        pairs = [(_stem(entry), entry) for entry in entries]
    elif isinstance(entries, dict):
        pairs = [(str(name), entry) for name, entry in entries.items()]
    else:
        raise UsageError(f"`bases` in {path} must be a list of configs, or names with their configs, got {entries!r}.")
    return [_read_base(name, entry, path) for name, entry in pairs]


def _stem(entry: Any) -> str:  # Any: whatever the file holds
    """The name of a base without one: its config's, the first one's where overlays follow."""
    first = entry[0] if isinstance(entry, list) and entry else entry
    return Path(first).stem if isinstance(first, str) else "without-a-name"


def _read_base(name: str, entry: Any, path: Path) -> Choice:  # Any: whatever the file holds
    given = entry if isinstance(entry, dict) else {"configs": entry}
    configs = given.get("configs")
    configs = [configs] if isinstance(configs, str) else configs
    unknown = set(given) - {"configs", "overrides"}
    if unknown or not isinstance(configs, list) or not configs or not all(isinstance(item, str) for item in configs):
        raise UsageError(
            f"The base `{name}` in {path} must be a config, a list of configs, or `configs:` with `overrides:`, got "
            f"{entry!r}."
        )
    for config in configs:
        locate_config(config)
    arguments = [part for config in configs for part in ("-c", config)]
    overrides = _mapping(given, "overrides", path)
    return Choice(_checked_name(name, "The base's name"), (*arguments, *read_overrides(overrides)))


def _read_axis(key: str, values: Any, path: Path) -> tuple[Choice, ...]:  # Any: whatever the file holds
    if isinstance(values, list):
        pairs = [(as_text(value), value) for value in values]
    elif isinstance(values, dict):
        pairs = [(str(name), value) for name, value in values.items()]
    else:
        raise UsageError(f"`{key}` under `grid` in {path} must be a list of values, got {values!r}: `[...]`.")
    if not pairs:
        raise UsageError(f"{path} describes no run, because `{key}` under `grid` is empty. List at least one value.")
    last = key.rpartition(".")[2]
    return tuple(Choice(f"{last}={_slug(name)}", read_overrides({key: value})) for name, value in pairs)


def _read_seeds(entries: Any, path: Path) -> list[int]:  # Any: whatever the file holds
    seeds = entries if isinstance(entries, list) else [entries]
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UsageError(f"`seeds` in {path} must be integers of at least 0, got {seed!r}. Write `[0, 1, 2]`.")
    return seeds


def _mapping(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UsageError(
            f"`{key}` in {path} must be dotted keys with values, such as `trainer.max_epochs: 3`, got {value!r}."
        )
    return value


def _split_override(text: str) -> str:
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals or not key:
        raise UsageError(f"`--set` takes KEY=VALUE, such as trainer.max_epochs=1, got {text!r}.")
    return read_overrides({key: value})[0]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("_")


def _checked_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} must be letters, digits and `.`, `_`, `+`, `-` (it names a folder), got {name!r}.")
    return name
