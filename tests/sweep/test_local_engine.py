"""Runs side by side on this machine, and stopping them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qcal.sweep.local_engine import run_locally
from qcal.sweep.resources import Resources
from qcal.sweep.run_process import Launch
from qcal.sweep.run_state import read_state
from tests.sweep.fakes import Journal, fake_run, is_alive, launch, overview, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_as_many_runs_as_slots_go_on_and_each_gets_its_share(journal: Journal, tmp_path: Path) -> None:
    runs = [fake_run(f"r{number}", journal, seconds=0.15) for number in range(5)]
    states, listener = overview(runs, tmp_path / "sweep")
    assert run_locally(runs, states, resources=Resources(("3", "5"), 4), launch=launch(tmp_path))
    assert [state.status for state in states.of("finished")] == ["finished"] * 5
    # In the order of the file, never more than two at one time, each on the device of its slot.
    assert [line.split()[0] for line in journal.starts()] == ["r0", "r1", "r2", "r3", "r4"]
    assert max(len(view.rows) for view in listener.views) == 2
    assert {row.device for view in listener.views for row in view.rows} == {"3", "5"}
    assert {state.device for state in states.of("finished")} == {"3", "5"}


def test_a_run_sees_its_threads_and_its_device(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(
        "from os import *\nprint(environ['OMP_NUM_THREADS'], environ['CUDA_VISIBLE_DEVICES'], getpgid(0) == getpid())"
    )
    run = fake_run("a", Journal(tmp_path / "journal"))
    states, _ = overview([run], tmp_path / "sweep")
    prefix = (sys.executable, str(tmp_path / "tell.py"))
    run_locally([run], states, resources=Resources(("GPU-7f",), 3), launch=Launch(prefix, folder=tmp_path))
    assert (tmp_path / "sweep/a/run.log").read_text().splitlines()[-1] == "3 GPU-7f True"


def test_a_crash_is_one_runs(journal: Journal, tmp_path: Path) -> None:
    runs = [fake_run("a", journal), fake_run("b", journal, do="crash_at_once"), fake_run("c", journal)]
    states, listener = overview(runs, tmp_path / "sweep")
    assert run_locally(runs, states, resources=Resources((None,), 1), launch=launch(tmp_path))
    assert {state.name: state.status for state in states.states.values()} == {
        "a": "finished",
        "b": "failed",
        "c": "finished",
    }
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [entry["status"] for entry in content["runs"]] == ["finished", "failed", "finished"]
    assert any("failed    b: exit code 1: `gamma` must be" in line for line in listener.lines)


def test_the_bar_of_a_run_follows_what_it_writes(journal: Journal, tmp_path: Path) -> None:
    run = fake_run("a", journal, epochs=3, seconds=0.6)
    states, listener = overview([run], tmp_path / "sweep")
    run_locally([run], states, resources=Resources((None,), 1), launch=launch(tmp_path))
    shown = [row.done for view in listener.views for row in view.rows]
    assert sorted(set(shown)) == shown[:1] + [epoch for epoch in (1, 2, 3) if epoch in shown]
    assert {1, 2} <= set(shown)
    assert {row.total for view in listener.views for row in view.rows} == {3}


@contextmanager
def driver(tmp_path: Path, *, jobs: int, grace: float, do: str, names: str) -> Iterator[subprocess.Popen[str]]:
    arguments = ["-m", "tests.sweep.sweep_driver", str(tmp_path), str(jobs), str(grace), do, *names]
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_every_run_in_good_order(number: signal.Signals, journal: Journal, tmp_path: Path) -> None:
    with driver(tmp_path, jobs=2, grace=30, do="", names="abc") as process:
        checkpoints = [tmp_path / "sweep" / name / "checkpoints" / "last.ckpt" for name in "ab"]
        wait_until(lambda: all(path.exists() for path in checkpoints), "two runs")
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert journal.of("a")[-1] == journal.of("b")[-1] == "interrupted"
    assert journal.of("c") == []
    assert not any(is_alive(pid) for pid in journal.pids())
    assert [read_state(tmp_path / "sweep" / name).status for name in "ab"] == ["interrupted"] * 2  # type: ignore[union-attr]  # they were started
    assert "interrupted a: stopped with the sweep" in output
    # The same sweep goes on from where they were.
    run = fake_run("a", journal, epochs=1000, seconds=0.05)
    states, _ = overview([run], tmp_path / "sweep")
    epoch = int(checkpoints[0].read_text())
    (tmp_path / "sweep/a/checkpoints/last.ckpt").write_text("999")  # shortened: a thousand epochs take too long
    assert epoch >= 1
    assert run_locally([run], states, resources=Resources((None,), 1), launch=launch(tmp_path))
    assert journal.of("a")[-2:] == ["fit@999", "end"]


def test_a_run_that_does_not_stop_is_ended_when_its_time_is_up(journal: Journal, tmp_path: Path) -> None:
    with driver(tmp_path, jobs=1, grace=1.0, do="ignore_sigint", names="a") as process:
        wait_until(lambda: (tmp_path / "sweep/a/checkpoints/last.ckpt").exists(), "a run")
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - start >= 1.0
    assert not any(is_alive(pid) for pid in journal.pids())


def test_a_second_ctrl_c_does_not_wait(journal: Journal, tmp_path: Path) -> None:
    with driver(tmp_path, jobs=1, grace=600, do="ignore_sigint", names="a") as process:
        wait_until(lambda: (tmp_path / "sweep/a/checkpoints/last.ckpt").exists(), "a run")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert not any(is_alive(pid) for pid in journal.pids())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_sweep_that_is_killed_leaves_no_orphan(journal: Journal, tmp_path: Path) -> None:
    with driver(tmp_path, jobs=2, grace=30, do="", names="ab") as process:
        wait_until(lambda: len(journal.pids()) == 2, "two runs")
        assert all(is_alive(pid) for pid in journal.pids())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in journal.pids()), "the runs' end")
    assert read_state(tmp_path / "sweep" / "a").status == "running"  # type: ignore[union-attr]  # nobody could write more


def test_signals_mean_what_they_meant_before_when_a_sweep_has_ended(journal: Journal, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = fake_run("a", journal)
    states, _ = overview([run], tmp_path / "sweep")
    run_locally([run], states, resources=Resources((None,), 1), launch=launch(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
