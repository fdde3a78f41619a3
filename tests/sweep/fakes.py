"""Runs that need no training: `fake_run.py` in place of `python -m qcal`."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qcal.sweep.config_hash import hash_config
from qcal.sweep.display import View
from qcal.sweep.overview import Overview, SweepDescription
from qcal.sweep.resolution import Run
from qcal.sweep.run_process import Launch

PREFIX = (sys.executable, "-S", str(Path(__file__).with_name("fake_run.py")))


@dataclass
class Listener:
    """A display that remembers."""

    lines: list[str] = field(default_factory=list)
    views: list[View] = field(default_factory=list)

    def show(self, view: View) -> None:
        self.views.append(view)

    def tell(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Journal:
    """What fake runs noted: every start, every end."""

    path: Path

    def of(self, name: str) -> list[str]:
        return [line.split()[1] for line in self._lines() if line.split()[0] == name]

    def starts(self) -> list[str]:
        return [f"{name} {what}" for name, what, *_ in map(str.split, self._lines()) if "@" in what]

    def pids(self) -> list[int]:
        return [int(line.split()[2]) for line in self._lines() if "@" in line]

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def fake_run(name: str, journal: Journal, *, do: str = "", epochs: int = 2, seconds: float = 0.0) -> Run:
    arguments = [f"--fake.journal={journal.path}", f"--fake.epochs={epochs}", f"--fake.seconds={seconds}"]
    config = {"fake": {"epochs": epochs, "name": name}}
    return Run(name, "fake", (*arguments, f"--fake.do={do}"), config, hash_config(config), epochs)


def launch(folder: Path, *, rerun_changed: bool = False) -> Launch:
    return Launch(PREFIX, folder=folder, rerun_changed=rerun_changed)


def overview(runs: list[Run], folder: Path) -> tuple[Overview, Listener]:
    listener = Listener()
    return Overview(runs, folder, SweepDescription("s", "s.yaml", "local", 1, ["qcal", "sweep"]), listener), listener


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended and that nobody has waited for is not alive.
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" not in status.read_text()
