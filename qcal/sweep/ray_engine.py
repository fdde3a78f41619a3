"""The same runs on a Ray cluster: Ray decides where and when, and starts again what a lost node took with it.

Each run is one Ray task, which holds the same process that the local engine would hold. All nodes see the sweep's
folder under the same path, so a task that Ray starts again on another node finds the run's checkpoint and goes on from
it, or its complete record and does nothing. A lock in the folder keeps a run that outlived its node's connection and
its second task apart.
"""

import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from qcal.sweep.local_engine import StopRequests, listening
from qcal.sweep.lock import FOLDER
from qcal.sweep.overview import Overview
from qcal.sweep.resolution import Run
from qcal.sweep.run_process import Launch, RunProcess
from qcal.sweep.run_state import RunState, read_state
from qcal.usage import UsageError

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class RayOptions:
    """How Ray is asked.

    Attributes:
        address: The cluster: `auto` for the one this machine belongs to, or `HOST:PORT`; None starts one here.
        cpus: CPUs of a run, and its threads.
        gpus: GPUs of a run; 0.25 lets four share one.
        retries: How often Ray starts a run again whose node or worker was lost.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 3


def import_ray() -> ModuleType:
    """Ray, which is an extra.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError(
            "`--engine ray` needs Ray, which is not installed. Install the extra: `pip install 'qcal[ray]'`, or in a "
            "checkout `uv sync --extra ray`; or leave `--engine` out to run on this machine."
        ) from error
    module: ModuleType = ray
    return module


def work_on(run: Run, folder: str, launch: Launch, grace: float, stop_file: str) -> RunState:
    """A Ray task: hold one run to its end.

    Args:
        run: The run.
        folder: The run's folder, seen from every node.
        launch: How its processes are started.
        grace: Seconds it gets to stop by itself once `stop_file` is there.
        stop_file: Is made when the user asks to stop. Not Ray's cancelling, which gives a task no time to clean up.

    Returns:
        Its last state. A run that fails is an answer, not an error: Ray starts again what was lost, not what crashed.
    """
    # Ray has chosen the device; it is noted, and handed on as it is.
    process = RunProcess(run, Path(folder), launch, device=os.environ.get("CUDA_VISIBLE_DEVICES"))
    stop = Path(stop_file)
    if stop.exists():
        return process.state
    process.start(wait=True)
    deadline = None
    while process.poll().status == "running":
        if deadline is None and stop.exists():
            process.interrupt()
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() >= deadline:
            process.kill()
        time.sleep(_POLL_SECONDS)
    return process.state


def run_on_ray(
    runs: Sequence[Run], overview: Overview, *, options: RayOptions, launch: Launch, grace: float = 30.0
) -> bool:
    """Work through the runs on a Ray cluster.

    Args:
        runs: What to run, in this order.
        overview: Where states go.
        options: How Ray is asked.
        launch: How processes are started; its folder is that of every node.
        grace: Seconds that runs get to stop by themselves after Ctrl-C.

    Returns:
        Whether all runs were worked on: False if the user stopped it.

    Raises:
        UsageError: Ray is not installed, the cluster does not answer, or none of its nodes has what a run needs.
    """
    ray = import_ray()
    ours = not ray.is_initialized()
    _connect(ray, options)
    launch = replace(launch, environment={**launch.environment, "OMP_NUM_THREADS": str(options.cpus)})
    stop_file = overview.folder / FOLDER / f"stop-{uuid.uuid4().hex}"
    try:
        _check_resources(ray, options)
        task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(work_on)
        with listening() as stop:
            futures = {
                task.remote(run, str(overview.folder / run.name), launch, grace, str(stop_file)): run for run in runs
            }
            pending = _collect(ray, futures, overview, stop)
            if pending:
                stop_file.parent.mkdir(exist_ok=True)
                stop_file.touch()
                _stop(ray, pending, overview, stop, grace)
    finally:
        stop_file.unlink(missing_ok=True)
        if ours:
            ray.shutdown()
    return not stop.count


def _connect(ray: Any, options: RayOptions) -> None:  # Any: a module without annotations where it is not installed
    if ray.is_initialized():
        return
    try:
        _check_answer(options.address)
        ray.init(address=options.address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"No Ray cluster answers at `--address {options.address}`: {error} Start one with `ray start --head`, or "
            "leave `--address` out to start one on this machine alone."
        ) from error


def _check_answer(address: str | None, *, timeout: float = 5.0) -> None:
    """Whether something listens there at all; Ray itself would ask for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=timeout).close()


def _check_resources(ray: Any, options: RayOptions) -> None:  # Any: as above
    """A task that no node can hold would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = [node for node in nodes if node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= options.gpus]
    if not fits:
        has = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise UsageError(
            f"A run asks for {options.cpus} CPUs and {options.gpus:g} GPUs, which no node of the cluster has ({has}). "
            "Lower `--cpus-per-run` or `--gpus-per-run`."
        )


def _collect(ray: Any, futures: dict[Any, Run], overview: Overview, stop: StopRequests) -> dict[Any, Run]:
    """Take results as they come; what is left when the user asks to stop. Any: Ray's references."""
    pending = dict(futures)
    while pending and not stop.count:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS)
        for future in ready:
            run = pending.pop(future)
            overview.update(_result(ray, future, run, overview))
        _look(pending.values(), overview)
        overview.show(max(1, len(overview.of("running"))))
    return pending


def _result(ray: Any, future: Any, run: Run, overview: Overview) -> RunState:  # Any: as above
    try:
        state: RunState = ray.get(future)
    except ray.exceptions.RayError as error:
        # Lost more often than Ray was asked to try again, or a defect of ours: named either way.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return replace(overview.states[run.name], status="failed", reason=f"Ray gave it up: {lines[-1]}")
    return state


def _look(runs: Any, overview: Overview) -> None:  # Any: a view of a dict's values
    """Which runs go on is read off their folders: Ray tells results alone."""
    for run in runs:
        state = read_state(overview.folder / run.name)
        # What a sweep left that was killed is no news.
        if state is not None and state.status == "running" and (state.started or "") >= overview.started:
            overview.update(state)


def _stop(ray: Any, pending: dict[Any, Run], overview: Overview, stop: StopRequests, grace: float) -> None:
    """Wait for the tasks, which stop by themselves, and end those that do not. Any: as above."""
    # They look for the file now and then, and a shared file system may show it late.
    deadline = time.monotonic() + grace + 10
    while pending and time.monotonic() < deadline and stop.count < 2:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS)
        for future in ready:
            run = pending.pop(future)
            overview.update(_result(ray, future, run, overview))
        overview.show(max(1, len(overview.of("running"))))
    for future, run in pending.items():
        ray.cancel(future, force=True)  # ends the worker, and with it the run's process
        if overview.states[run.name].status == "running":
            overview.update(replace(overview.states[run.name], status="interrupted", reason="ended with the sweep"))
