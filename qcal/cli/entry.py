"""Entry point: completes the arguments, runs the command line, turns a user's mistake into one message."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import qcal
from qcal.cli.arguments import TOOLS, complete_arguments
from qcal.usage import BrokenOffError, UsageError, report_error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand: `fit`, `validate`, `test` or `predict`; or `sweep`, which runs many, or `report`.

    Args:
        argv: The arguments after the program's name; those of the process when not given.

    Returns:
        The exit code: 0 when all went well, 2 after a mistake in the arguments or the input, 1 when the disk was full
        and 130 when the user stopped it, each told in one message; of a sweep also 1 when a run failed.

    Raises:
        SystemExit: From `--help`, `--print_config` and from arguments that cannot be parsed.

    Example:
        >>> main(["--version"])
        qcal ...
        0
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if given == ["--version"]:
        print(f"qcal {qcal.__version__}")
        return 0
    try:
        if given[:1] and given[0] in TOOLS:
            return _run_tool(given[0], given[1:])
        arguments = complete_arguments(given)
        with _as_process_arguments(arguments):
            _run()
    except UsageError as error:
        report_error(str(error))
        return 2
    except BrokenOffError as error:
        report_error(str(error))
        return error.exit_code
    return 0


def _run() -> None:
    # Imported here: it takes Lightning and torch with it, some seconds that `--version` and a misspelt config need
    # not wait for.
    from qcal.cli.lightning_cli import run_command_line

    run_command_line()


def _run_tool(name: str, arguments: list[str]) -> int:
    tool = importlib.import_module(f"qcal.{name}.command")
    return int(tool.main(arguments))


@contextmanager
def _as_process_arguments(arguments: list[str]) -> Iterator[None]:
    """LightningCLI reads and compares `sys.argv`; arguments passed beside it make it warn."""
    before = sys.argv
    sys.argv = [before[0] if before else "qcal", *arguments]
    try:
        yield
    finally:
        sys.argv = before
