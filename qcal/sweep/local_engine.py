"""Runs on this machine: so many at a time, each in its own process; Ctrl-C stops them all."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from qcal.sweep.overview import Overview
from qcal.sweep.resolution import Run
from qcal.sweep.resources import Resources
from qcal.sweep.run_process import Launch, RunProcess

_POLL_SECONDS = 0.1
_SHOW_EVERY = 5  # polls
# A closed terminal and a scheduler's end of time are answered like Ctrl-C.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """How often the user asked to stop: once for an orderly end, twice for an immediate one."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        self.count += 1


@contextmanager
def listening() -> Iterator[StopRequests]:
    """Count signals to stop instead of being ended by them."""
    requests = StopRequests()
    before = {number: signal.signal(number, requests) for number in _STOP_SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_locally(
    runs: Sequence[Run], overview: Overview, *, resources: Resources, launch: Launch, grace: float = 30.0
) -> bool:
    """Work through the runs.

    Args:
        runs: What to run, in this order.
        overview: Where states go.
        resources: What each job gets; as many runs as it has slots go on at one time.
        launch: How processes are started.
        grace: Seconds that runs get to stop by themselves after Ctrl-C, before they are ended.

    Returns:
        Whether all runs were worked on: False if the user stopped it.
    """
    launch = replace(launch, environment={**launch.environment, "OMP_NUM_THREADS": str(resources.threads)})
    queue = list(runs)
    slots: dict[int, RunProcess | None] = dict.fromkeys(range(len(resources.slots)))
    with listening() as stop:
        try:
            polls = 0
            while (queue or any(slots.values())) and not stop.count:
                for slot, process in slots.items():
                    if process is not None:
                        overview.update(process.poll())
                        process = process if process.state.status == "running" else None
                    if process is None and queue and not stop.count:
                        process = RunProcess(
                            run := queue.pop(0), overview.folder / run.name, launch, device=resources.slots[slot]
                        )
                        overview.update(process.start())
                        process = process if process.state.status == "running" else None
                    slots[slot] = process
                if polls % _SHOW_EVERY == 0:
                    overview.show(len(slots))
                polls += 1
                time.sleep(_POLL_SECONDS)
            stopped = bool(stop.count)
            _stop([process for process in slots.values() if process is not None], overview, stop, grace)
        finally:
            # Whatever went wrong in here: no process outlives the sweep.
            for process in slots.values():
                if process is not None and process.state.status == "running":
                    process.kill()
    return not stopped


def _stop(processes: Sequence[RunProcess], overview: Overview, stop: StopRequests, grace: float) -> None:
    """Ask, wait, end; a second request ends the waiting."""
    for process in processes:
        process.interrupt()
    deadline = time.monotonic() + grace
    while any(process.state.status == "running" for process in processes):
        if time.monotonic() >= deadline or stop.count > 1:
            for process in processes:
                process.kill()
        for process in processes:
            overview.update(process.poll())
        overview.show(max(1, len(processes)))
        time.sleep(_POLL_SECONDS)
