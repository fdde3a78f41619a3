"""The argument parser: Lightning's, with errors a person can read."""

import difflib
import importlib
import inspect
import re
import textwrap
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from qcal.usage import report_error

# Where the classes that a key takes by short name are, for the suggestion after a misspelt one.
_ROOMS = {"model.loss": "qcal.losses", "model.model": "qcal.models", "data": "qcal.data"}
# What the parser says of alternatives (`Module | None`) and of the value's Python type: true, and no help.
_NOISE = re.compile(
    r"^\s*(-\s*)?(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"Expected a <class 'NoneType'>|"
    r"Expected a path but .*|Given value type: .*|Given value: (NestedArg|Namespace).*)\s*$"
)


# Lightning's heading of the Trainer's hundred arguments.
_TRAINER_GROUP = "Customize every aspect of training via flags"
# For a `Module` the parser names all seven hundred that are imported, three times.
_KNOWN_SUBCLASSES = re.compile(r"known\s+subclasses:\s+([^()]*)\)")
_MANY = 30


class Parser(LightningArgumentParser):
    """Lightning's parser; an error is the message, a suggestion and where to look, not sixty lines of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: passed on as they are
        # A shortened key is a misspelt key: `--trainer.max_epoch` must not pass for `--trainer.max_epochs`.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def format_help(self, *args: Any, **kwargs: Any) -> str:  # Any: passed on as they are
        """The help with one line of usage, qcal's own groups before the Trainer's, and its own classes only."""
        groups, usage = self._action_groups, self.usage
        try:
            self._action_groups = sorted(groups, key=lambda group: group.title == _TRAINER_GROUP)
            self.usage = f"{self.prog} [-c CONFIG ...] [--KEY VALUE ...]"
            return _KNOWN_SUBCLASSES.sub(_own_classes, super().format_help(*args, **kwargs))
        finally:
            self._action_groups, self.usage = groups, usage

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with code 2.

        Args:
            message: What the parser found.
            ex: What it was found by.

        Raises:
            SystemExit: Always, unless this parser belongs to another one, which then adds what it knows.
        """
        if not self.exit_on_error:
            # A nested parser: its parent tells the user, with more context.
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        known = [action.dest for action in parser._actions]
        report_error(
            f"{readable(message)}{suggestion(message, known)}\nAll keys: `--help`; the resolved config: "
            "`--print_config`."
        )
        self.exit(2)


def _own_classes(match: re.Match[str]) -> str:
    # Long names are broken over lines: put them together before they are told apart.
    names = re.sub(r"\s+", "", match[1]).split(",")
    if len(names) <= _MANY:
        return match[0]
    own = [name for name in names if name.startswith(tuple(_ROOMS.values()))]
    text = f"any of {len(names)} known subclasses" + (f", qcal's own: {', '.join(own)})" if own else ")")
    return textwrap.fill(text, 54, break_long_words=False).replace("\n", "\n" + 24 * " ")


def readable(message: str, limit: int = 1200) -> str:
    r"""The message without the parser's inner workings, cut at a screenful.

    Example:
        >>> print(readable("Parser key 'model.loss':\n  Errors:\n    - Expected a dot import path string: FocalLos"))
        Parser key 'model.loss':
            - Expected a dot import path string: FocalLos
    """
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    # One complaint that is left over from a list of alternatives is no list.
    text = lines[0].strip().removeprefix("- ") if len(lines) == 1 else "\n".join(lines)
    return text if len(text) <= limit else f"{text[:limit].rstrip()} ..."


def suggestion(message: str, known_keys: list[str]) -> str:
    r"""What the user may have meant, by what the message complains of; empty if nothing is close.

    Args:
        message: The parser's.
        known_keys: All keys of the command, dotted.

    Returns:
        A line to put after the message.

    Example:
        >>> suggestion("unrecognized arguments: --trainer.max_epoch 3", ["trainer.max_epochs", "model"])
        '\nDid you mean `--trainer.max_epochs`?'
    """
    option = re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", message)
    if option:
        allowed = _arguments_of(option[1])
        return f"\n{option[1].rpartition('.')[2]} takes: {', '.join(allowed)}.{_close(option[2], allowed, '')}"
    name = re.search(r"Expected a dot import path string: (\w+)", message)
    key = re.search(r"[Kk]ey \"([\w.]+)\"", message)
    if name and key and key[1] in _ROOMS:
        names = importlib.import_module(_ROOMS[key[1]]).__all__
        return f"\n{_ROOMS[key[1]]} has: {', '.join(names)}.{_close(name[1], names, '')}"
    for unknown in re.findall(r"(?:--|[Kk]ey |[Oo]ption )[\"'`]?([\w.]+)[\"'`]?", message):
        if unknown not in known_keys:
            close = _close(unknown, known_keys, "--")
            if close:
                return f"\n{close.strip()}"
    return ""


def _arguments_of(class_path: str) -> list[str]:
    """The names a class takes, those of its bases behind `**kwargs` too."""
    module, _, name = class_path.rpartition(".")
    target = getattr(importlib.import_module(module), name)
    classes = [base for base in inspect.getmro(target) if "__init__" in vars(base)] if inspect.isclass(target) else []
    functions = [vars(base)["__init__"] for base in classes] or [target]
    names: list[str] = []
    for function in functions:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in names]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _close(given: str, allowed: list[str], prefix: str) -> str:
    match = difflib.get_close_matches(given, allowed, n=1)
    return f" Did you mean `{prefix}{match[0]}`?" if match else ""
