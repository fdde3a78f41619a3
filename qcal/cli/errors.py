"""One way to tell a user of a mistake."""

import sys


class UsageError(Exception):
    """A mistake in arguments, configs or input, found before work started; its text is the whole message."""


def report_error(message: str) -> None:
    """Print `message` as the command's error on standard error."""
    print(f"qcal: error: {message}", file=sys.stderr)
