"""One way to tell a user of a mistake, for every command."""

import argparse
import sys
from typing import NoReturn


class UsageError(Exception):
    """A mistake in arguments, configs or input, found before work started; its text is the whole message."""


class BrokenOffError(Exception):
    """What ended a run that had begun and is no defect, a full disk say; its text is the whole message.

    Args:
        message: The message.
        exit_code: What the process ends with.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def report_error(message: str) -> None:
    """Print `message` as the command's error on standard error."""
    print(f"qcal: error: {message}", file=sys.stderr)


class CommandParser(argparse.ArgumentParser):
    """The parser of a command beside `fit` and `test`: its errors are told like theirs."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        report_error(f"{message}. See `{self.prog} --help`.")
        self.exit(2)
