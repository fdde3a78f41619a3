"""One run, held from start to end: its folder, its process, its state."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from qcal.sweep import guard
from qcal.sweep.continuation import decide, describe_change, keep_from_being_overwritten, move_aside
from qcal.sweep.lock import lock, lock_of_run
from qcal.sweep.resolution import Run
from qcal.sweep.run_state import LAST_CHECKPOINT, LOG, RunState, Status, has_record, now, read_state, write_state

Step = Literal["fit", "resume", "study"]


@dataclass(frozen=True)
class Launch:
    """How processes are started.

    Attributes:
        prefix: The command line before the subcommand; `python -m qcal` by this Python when empty.
        folder: Working folder of the processes: relative paths in configs start there.
        environment: Variables to set in each.
        rerun_changed: A folder of another config makes way for the run.
    """

    prefix: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(default_factory=dict)
    rerun_changed: bool = False


def command_line(run: Run, folder: Path, step: Step, prefix: Sequence[str] = ()) -> list[str]:
    """The command line of one process of a run.

    Args:
        run: The run.
        folder: Its folder.
        step: `fit` from the beginning, `resume` from the last checkpoint, or the `study` alone, of the last checkpoint
            of a run that had trained to its end.
        prefix: What comes before the subcommand.

    Returns:
        The command line.

    Example:
        >>> run = Run("a", "default", ("--seed_everything=1",), {}, "0123", 15)
        >>> command_line(run, Path("runs/s/a"), "resume", ["qcal"])[3:]
        ['--run.name=a', '--run.dir=runs/s/a', '--ckpt_path=runs/s/a/checkpoints/last.ckpt']
    """
    start = list(prefix) or [sys.executable, "-m", "qcal"]
    checkpoint = f"--ckpt_path={folder / LAST_CHECKPOINT}"
    if step == "study":
        number = 1
        while (place := folder / f"study-{number}").exists():
            number += 1
        # `test` wants a folder of its own; its record belongs where the fit would have left it.
        places = [f"--run.name={run.name}", f"--run.dir={place}", f"--ptq.output_dir={folder / 'ptq'}", checkpoint]
        return [*start, "test", *run.arguments, *places]
    places = [f"--run.name={run.name}", f"--run.dir={folder}", *([checkpoint] if step == "resume" else [])]
    return [*start, "fit", *run.arguments, *places]


class RunProcess:
    """A run being worked on: `start` it, then `poll` it until its state is not `running`.

    A failure of any kind ends in a state with a reason: it is one run's, never the sweep's.

    Args:
        run: What to run.
        folder: Its folder.
        launch: How its processes are started.
        device: What its `CUDA_VISIBLE_DEVICES` shall be; None leaves it.
    """

    def __init__(self, run: Run, folder: Path, launch: Launch, *, device: str | None = None) -> None:
        self.run, self.folder, self.device = run, folder, device
        self.state = RunState(run.name, "waiting", [], run.config_hash, run.config)
        self._launch = launch
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._step: Step = "fit"
        self._interrupted = False

    def start(self, *, wait: bool = False) -> RunState:
        """Look at the folder, and start what there is to do.

        Args:
            wait: Wait until no other process works on the run; otherwise that is a failure.

        Returns:
            The state: `running`, `finished` if there was nothing to do, or `failed`.
        """
        try:
            self._lock = lock(lock_of_run(self.folder), wait=wait)
            if self._lock is None:
                return self._end("failed", f"another process works on it: {self._holder()}", write=False)
            step = self._make_way()
            if step is not None:
                self._spawn(step)
            elif self.state.status == "waiting":
                self._finish_skipped()
        except OSError as error:
            self._end("failed", f"it could not be started: {error}")
        finally:
            # Also when a signal comes in between: whoever holds this object may live on.
            if self.state.status != "running":
                self._release()
        return self.state

    def poll(self) -> RunState:
        """The state now; when the process has ended, what it ended as."""
        if self._process is None or self.state.status != "running":
            return self.state
        exit_code = self._process.poll()
        if exit_code is None:
            return self.state
        self.state = replace(self.state, exit_code=exit_code)
        try:
            self._conclude(exit_code)
        except OSError as error:
            self._end("failed", f"its folder could not be written: {error}")
        if self.state.status != "running":
            self._release()
        return self.state

    def interrupt(self) -> None:
        """Ask the process to stop, as Ctrl-C does."""
        self._interrupted = True
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process, and those that it started."""
        self._interrupted = True
        if self._process is not None:
            try:
                # It leads a group of its own, which loader processes belong to.
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # all of them have ended
            self._process.wait()

    def _make_way(self) -> Step | None:
        """Prepare the folder; None where there is nothing to start."""
        action = decide(self.run, self.folder)
        known = read_state(self.folder)
        self.state = replace(self.state, attempts=known.attempts if known is not None else 0)
        if action == "skip":
            return None
        if action == "changed" and not self._launch.rerun_changed:
            self._end("failed", f"it has changed: {describe_change(self.run, self.folder)}", write=False)
            return None
        if action in ("changed", "restart"):
            move_aside(self.folder)
        if action == "resume":
            keep_from_being_overwritten(self.folder)
        return "resume" if action == "resume" else "fit"

    def _spawn(self, step: Step) -> None:
        self._step = step
        command = command_line(self.run, self.folder, step, self._launch.prefix)
        self.state = replace(
            self.state,
            status="running",
            command=command,
            attempts=self.state.attempts + 1,
            started=self.state.started or now(),
            host=socket.gethostname(),
            device=self.device,
        )
        write_state(self.state, self.folder)
        environment = {**os.environ, **self._launch.environment, "PYTHONUNBUFFERED": "1"}
        if self.device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.device
        assert self._lock is not None
        with (self.folder / LOG).open("ab") as log:
            log.write(f"== {now()} {shlex.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *command],
                cwd=self._launch.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The terminal's Ctrl-C reaches the sweep alone, which passes it on once.
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        self.state = replace(self.state, pid=self._process.pid)
        write_state(self.state, self.folder)

    def _conclude(self, exit_code: int) -> None:
        complete = has_record(self.folder)
        if self._interrupted and not complete:
            self._end("interrupted", "stopped with the sweep")
        elif exit_code == 0 and complete:
            self._end("finished")
        elif exit_code == 0 and self._step != "study" and (self.folder / LAST_CHECKPOINT).is_file():
            # It had trained to its end before, so there was nothing to fit, and a study follows only what was trained.
            self._spawn("study")
        elif exit_code == 0:
            self._end("failed", "it ended well, but left no record (ptq/records.json)")
        else:
            kept = " (its record is complete all the same)" if complete else ""
            self._end("failed", f"{_told(exit_code, self.folder / LOG)}{kept}")

    def _finish_skipped(self) -> None:
        known = read_state(self.folder)
        assert known is not None
        self.state = replace(known, status="finished")
        if known.status != "finished":
            # Whoever held it was killed between its record and this line.
            write_state(self.state, self.folder)

    def _end(self, status: Status, reason: str | None = None, *, write: bool = True) -> RunState:
        self.state = replace(self.state, status=status, reason=reason, finished=now())
        if write:
            try:
                write_state(self.state, self.folder)
            except OSError as error:
                # A full disk must not end the sweep; the summary tells, and the folder speaks for itself next time.
                told = f"{reason}; " if reason else ""
                self.state = replace(
                    self.state, status="failed", reason=f"{told}its run.json could not be written: {error}"
                )
        return self.state

    def _holder(self) -> str:
        known = read_state(self.folder)
        return f"process {known.pid} on {known.host}" if known is not None else "which left no run.json"

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _told(exit_code: int, log: Path, *, limit: int = 600) -> str:
    """Why a process ended badly, in its own words: qcal's error, or the last line of a traceback."""
    how = f"exit code {exit_code}" if exit_code > 0 else f"signal {signal.Signals(-exit_code).name}"
    if exit_code == -signal.SIGKILL:
        # It had no time to say anything: what stands last in its log is no reason.
        return f"{how}: ended from outside, by someone or because memory ran out"
    text = _tail(log)
    _, mark, error = text.rpartition("qcal: error: ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = error.strip() if mark else (lines[-1] if lines else "it said nothing")
    return f"{how}: {last[:limit]}"


def _tail(log: Path, size: int = 4000) -> str:
    """The end of what the last process wrote."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            text = "\n" + file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    # The line that begins with `==` is ours: the command line.
    _, header, last = text.rpartition("\n== ")
    return last.partition("\n")[2] if header else text
