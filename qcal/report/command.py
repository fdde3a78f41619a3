"""`qcal report`: many records -> one page."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from qcal.usage import CommandParser, UsageError

__all__ = ["main", "make_parser"]

_EXAMPLES = """examples:
  qcal report runs/quickstart                      # a sweep
  qcal report 'runs/ce-*' runs/focal-1 -o compared # globs and folders
  qcal report runs/quickstart --measure ece
"""


def main(arguments: Sequence[str]) -> int:
    """Write a report.

    Args:
        arguments: What stands after `report`.

    Returns:
        0.

    Raises:
        UsageError: There is no record that can be read, or the output cannot be written.
        SystemExit: From `--help` and from arguments that cannot be parsed.
    """
    options = make_parser().parse_args(arguments)
    folder = Path(options.output)
    # Here, because they bring torch and matplotlib along, which `--help` need not wait for.
    from qcal.report.find_records import find_records, read_records
    from qcal.report.write_report import write_report

    folders, passed_over = find_records(options.runs)
    found, unreadable = read_records(folders)
    _check_writable(folder)
    console = Console()
    console.print(f"Reading {len(found)} records ...", highlight=False)
    try:
        page, answers = write_report(
            found, [*passed_over, *unreadable], folder=folder, measure=options.measure, title=options.title
        )
    except OSError as error:
        raise UsageError(f"The report cannot be written to {folder}: {error}. Pass another folder as `-o`.") from error
    for title, answer in answers.items():
        console.print(f"\n{title}", *answer, sep="\n", highlight=False, markup=False)
    left_out = len(passed_over) + len(unreadable)
    if left_out:
        console.print(f"\n{left_out} left out: the page says which, and why.", highlight=False)
    console.print(f"\nReport   {page}", soft_wrap=True, highlight=False)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `qcal report`."""
    parser = CommandParser(
        prog="qcal report",
        description="Read the records of many runs and write one page: the answer, pictures (PNG and SVG), and the "
        "tidy table (CSV and Parquet).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, a sweep's folder, or globs")
    parser.add_argument("-o", "--output", default="report", metavar="FOLDER", help="where to write; report")
    parser.add_argument(
        "--measure",
        choices=("overconfidence", "ece"),
        default="overconfidence",
        help="of the float network, against which the error is held; overconfidence",
    )
    parser.add_argument("--title", default="Confidence and quantization", help="of the page")
    return parser


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error}). Pass a folder that can as `-o`.") from error
