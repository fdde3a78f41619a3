"""One run from start to end, in every way it can end; fake processes."""

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qcal.sweep import run_state
from qcal.sweep.lock import lock, lock_of_run
from qcal.sweep.resolution import Run
from qcal.sweep.run_process import RunProcess, _told, command_line
from qcal.sweep.run_state import RunState, read_state, write_state
from tests.sweep.fakes import Journal, fake_run, launch, wait_until


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def work(run: Run, tmp_path: Path, *, rerun_changed: bool = False) -> RunState:
    process = RunProcess(run, tmp_path / "sweep" / run.name, launch(tmp_path, rerun_changed=rerun_changed))
    process.start()
    wait_until(lambda: process.poll().status != "running", run.name)
    return process.state


def test_a_run_ends_finished_and_its_file_says_how(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal)
    state = work(run, tmp_path)
    assert (state.status, state.exit_code, state.attempts) == ("finished", 0, 1)
    assert journal.of("a") == ["fit@0", "end"]
    on_disk = read_state(tmp_path / "sweep" / "a")
    assert on_disk == state
    assert on_disk.config_hash == run.config_hash
    assert on_disk.started is not None
    assert on_disk.finished is not None
    assert on_disk.started <= on_disk.finished
    assert "--run.name=a" in on_disk.command


def test_a_finished_run_is_not_started_again(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal)
    before = work(run, tmp_path)
    assert work(run, tmp_path) == before
    assert journal.starts() == ["a fit@0"]


def test_a_run_whose_sweep_was_killed_after_its_record_counts_as_finished(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal)
    before = work(run, tmp_path)
    write_state(replace(before, status="running", finished=None), tmp_path / "sweep" / "a")
    assert work(run, tmp_path).status == "finished"
    assert read_state(tmp_path / "sweep" / "a").status == "finished"  # type: ignore[union-attr]  # it was just written
    assert len(journal.starts()) == 1


def test_a_crash_is_told_by_its_last_line_and_goes_on_from_the_last_checkpoint(
    journal: Journal, tmp_path: Path
) -> None:
    run = fake_run("a", journal, do="crash_once", epochs=3)
    state = work(run, tmp_path)
    assert (state.status, state.exit_code) == ("failed", 1)
    assert state.reason == "exit code 1: RuntimeError: CUDA out of memory"
    again = work(run, tmp_path)
    assert (again.status, again.attempts) == ("finished", 2)
    assert journal.starts() == ["a fit@0", "a fit@1"]
    # The metrics of the first attempt, which Lightning's logger would delete, are still there.
    assert (tmp_path / "sweep/a/metrics-before-resume-1.csv").read_text() == "epoch,step,val/accuracy\n0,0,0.5\n"


def test_a_mistake_is_told_in_the_words_of_the_command_line(journal: Journal, tmp_path: Path) -> None:
    state = work(fake_run("a", journal, do="crash_at_once"), tmp_path)
    assert state.reason == "exit code 1: `gamma` must be a number in [0, inf), got -1."
    # Nothing had been made, so that the next attempt starts in the same folder.
    assert work(fake_run("a", journal), tmp_path).status == "finished"
    assert not (tmp_path / "sweep" / "kept").exists()


def test_a_killed_run_is_told_by_its_signal(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal, seconds=60)
    process = RunProcess(run, tmp_path / "sweep" / "a", launch(tmp_path))
    process.start()
    wait_until(lambda: bool(journal.pids()), "start")
    os.kill(journal.pids()[0], signal.SIGKILL)
    wait_until(lambda: process.poll().status != "running", "end")
    assert process.state.reason == "signal SIGKILL: ended from outside, by someone or because memory ran out"
    assert process.state.exit_code == -9


def test_a_study_that_broke_is_made_up_for_from_the_last_checkpoint_without_training(
    journal: Journal, tmp_path: Path
) -> None:
    run = fake_run("a", journal, do="crash_at_study")
    assert work(run, tmp_path).reason == "exit code 1: RuntimeError: it broke in the study"
    state = work(run, tmp_path)
    assert state.status == "finished"
    # `fit` had nothing to train, so that it made no study: `test` does.
    assert journal.starts() == ["a fit@0", "a fit@2", "a test@2"]
    assert (tmp_path / "sweep/a/ptq/records.json").is_file()
    assert (tmp_path / "sweep/a/ptq-before-resume-1/logits.npz").read_text() == "half"


def test_half_a_record_is_none(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal)
    work(run, tmp_path)
    (tmp_path / "sweep/a/ptq/records.json").write_text('{"schema_ver')
    assert work(run, tmp_path).status == "finished"
    assert journal.starts() == ["a fit@0", "a fit@2", "a test@2"]
    assert (tmp_path / "sweep/a/ptq-before-resume-1/records.json").read_text() == '{"schema_ver'


def test_ending_well_without_a_record_is_a_failure(journal: Journal, tmp_path: Path) -> None:
    state = work(fake_run("a", journal, do="no_record", epochs=0), tmp_path)
    assert (state.status, state.exit_code) == ("failed", 0)
    assert state.reason == "it ended well, but left no record (ptq/records.json)"


def test_a_run_that_broke_before_its_first_checkpoint_starts_anew_and_its_folder_is_kept(
    journal: Journal, tmp_path: Path
) -> None:
    run = fake_run("a", journal)
    work(run, tmp_path)
    folder = tmp_path / "sweep" / "a"
    (folder / "ptq" / "records.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    state = work(run, tmp_path)
    assert (state.status, state.attempts) == ("finished", 2)
    assert journal.starts() == ["a fit@0", "a fit@0"]
    assert (tmp_path / "sweep/kept/a-1/metrics.csv").is_file()


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qcal.sweep.run_process.write_state", fail)
        yield


def test_a_full_disk_is_named_and_is_the_runs_failure(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = work(fake_run("a", journal, do="full_disk"), tmp_path)
    assert state.reason == "exit code 1: OSError: [Errno 28] No space left on device"
    with full_disk(monkeypatch):
        state = work(fake_run("b", journal), tmp_path)
    assert state.status == "failed"
    assert state.reason is not None
    assert "it could not be started: [Errno 28] No space left on device" in state.reason
    assert journal.of("b") == []
    # A disk that fills up meanwhile: the run is complete, and its folder says so the next time.
    process = RunProcess(fake_run("c", journal), tmp_path / "sweep" / "c", launch(tmp_path))
    process.start()
    with full_disk(monkeypatch):
        wait_until(lambda: process.poll().status != "running", "end")
    assert process.state.reason == "its run.json could not be written: [Errno 28] No space left on device"
    assert work(fake_run("c", journal), tmp_path).status == "finished"
    assert journal.of("c") == ["fit@0", "end"]


def test_another_config_in_the_folder_is_refused_or_kept_under_another_name(journal: Journal, tmp_path: Path) -> None:
    work(fake_run("a", journal), tmp_path)
    changed = fake_run("a", journal, epochs=3)
    state = work(changed, tmp_path)
    assert (state.status, state.reason) == ("failed", "it has changed: fake.epochs: 2 -> 3")
    assert read_state(tmp_path / "sweep" / "a").status == "finished"  # type: ignore[union-attr]  # it was not touched
    assert work(changed, tmp_path, rerun_changed=True).status == "finished"
    assert read_state(tmp_path / "sweep/kept/a-1").config == {"fake": {"epochs": 2, "name": "a"}}  # type: ignore[union-attr]  # moved there
    assert len((tmp_path / "sweep/a/metrics.csv").read_text().splitlines()) == 4


def test_two_processes_never_work_on_one_run(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal, seconds=0.3)
    folder = tmp_path / "sweep" / "a"
    first = RunProcess(run, folder, launch(tmp_path))
    first.start()
    second = RunProcess(run, folder, launch(tmp_path))
    assert second.start().status == "failed"
    assert second.state.reason is not None
    assert f"process {first.state.pid} on" in second.state.reason
    wait_until(lambda: first.poll().status == "finished", "end")
    assert journal.starts() == ["a fit@0"]


def test_a_process_that_outlives_its_holder_keeps_the_lock(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "a"
    process = RunProcess(fake_run("a", journal, seconds=0.4), folder, launch(tmp_path))
    process.start()
    process._release()  # as when the holder's handle is gone
    assert lock(lock_of_run(folder)) is None
    wait_until(lambda: process.poll().status == "finished", "end")
    handle = lock(lock_of_run(folder))
    assert handle is not None
    os.close(handle)


def test_a_run_can_be_interrupted_even_where_its_holder_ignores_it(journal: Journal, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script's background
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as in a worker of Ray
    try:
        process = RunProcess(fake_run("a", journal, seconds=60), tmp_path / "sweep" / "a", launch(tmp_path))
        process.start()
        wait_until(lambda: (tmp_path / "sweep/a/metrics.csv").exists(), "start")
        process.interrupt()
        wait_until(lambda: process.poll().status == "interrupted", "end")
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert journal.of("a") == ["fit@0", "interrupted"]


def test_an_interrupted_run_is_neither_failed_nor_finished(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal, epochs=100, seconds=0.05)
    process = RunProcess(run, tmp_path / "sweep" / "a", launch(tmp_path))
    process.start()
    wait_until(lambda: (tmp_path / "sweep/a/checkpoints/last.ckpt").exists(), "a checkpoint")
    process.interrupt()
    wait_until(lambda: process.poll().status != "running", "end")
    assert process.state.status == "interrupted"
    assert journal.of("a") == ["fit@0", "interrupted"]


def test_the_last_output_is_that_of_the_last_attempt(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal, do="crash_once")
    work(run, tmp_path)
    log = tmp_path / "sweep" / "a" / run_state.LOG
    log.write_text(log.read_text() + "\n== 2026 qcal fit --a\n")
    assert _told(1, log) == "exit code 1: it said nothing"


def test_the_study_has_a_folder_of_its_own_each_time(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal)
    assert f"--run.dir={tmp_path / 'study-1'}" in command_line(run, tmp_path, "study")
    (tmp_path / "study-1").mkdir()
    command = command_line(run, tmp_path, "study")
    assert f"--run.dir={tmp_path / 'study-2'}" in command
    assert f"--ptq.output_dir={tmp_path / 'ptq'}" in command


def test_waiting_for_a_lock_ends_when_it_is_free(tmp_path: Path) -> None:
    held = lock(tmp_path / "a.lock")
    assert held is not None
    freeing = threading.Timer(0.3, os.close, [held])
    freeing.start()
    start = time.monotonic()
    again = lock(tmp_path / "a.lock", wait=True)
    assert again is not None
    assert 0.2 < time.monotonic() - start < 10
    os.close(again)
