"""Become another program that can be interrupted, and end with the process that started this one.

    python guard.py PARENT_PID PROGRAM ARGUMENT...

Run by its path: it imports the standard library alone, which costs 20 ms. On Linux the kernel ends the program when
its parent is gone, even if that was killed and could not clean up; elsewhere the program is merely run.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ask the kernel, then become the program."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        # It may have gone before the kernel was asked.
        if os.getppid() != parent:
            sys.exit(f"The process {parent} that started this run is gone.")
    # A program inherits which signals are ignored (what a script put into the background ignores Ctrl-C) and which are
    # blocked (Ray's workers block it).
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
