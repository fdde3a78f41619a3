"""The same runs on Ray: a real local cluster of two nodes, one of which is killed; fake processes."""

import importlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcal.sweep.ray_engine import RayOptions, import_ray, run_on_ray
from qcal.sweep.resolution import Run
from qcal.sweep.run_state import read_state
from qcal.usage import UsageError
from tests.sweep.fakes import Journal, fake_run, is_alive, launch, overview, wait_until


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"`--engine ray` needs Ray, .*pip install 'qcal\[ray\]'.*--extra ray"):
        import_ray()


def test_a_broken_ray_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_ray()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # Any: Ray may not be installed
    """A head with one CPU and a node with two."""
    pytest.importorskip("ray", reason="needs Ray: `uv run --group ray pytest -m slow tests/sweep`")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Found dead within seconds rather than half a minute.
    system = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}
    utils = importlib.import_module("ray.cluster_utils")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "_system_config": system})
    try:
        yield made
    finally:
        importlib.import_module("ray").shutdown()
        made.shutdown()


def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: `uv run --group ray pytest tests/sweep`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    states, _ = overview([], tmp_path)
    with pytest.raises(UsageError, match=f"No Ray cluster answers at `--address 127.0.0.1:{port}`: .*refused.*`ray st"):
        run_on_ray([], states, options=RayOptions(f"127.0.0.1:{port}"), launch=launch(tmp_path))


def runs_of(journal: Journal, count: int, **how: Any) -> list[Run]:  # Any: the arguments of `fake_run`
    return [fake_run(f"r{number}", journal, **how) for number in range(count)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own, of what it starts and closes
def test_a_node_that_is_killed_loses_no_run_and_no_run_is_done_twice(cluster: Any, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    node = cluster.add_node(num_cpus=2, num_gpus=0)
    runs = runs_of(journal, 6, epochs=20, seconds=0.2)
    states, listener = overview(runs, tmp_path / "sweep")

    def kill_a_node() -> None:
        checkpoints = [tmp_path / "sweep" / f"r{number}/checkpoints/last.ckpt" for number in range(3)]
        wait_until(lambda: all(path.exists() for path in checkpoints), "three runs", seconds=90)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    assert run_on_ray(runs, states, options=RayOptions(cluster.address), launch=launch(tmp_path))
    killer.join()

    assert [state.status for state in states.of("finished")] == ["finished"] * 6, listener.lines
    starts = [journal.of(run.name) for run in runs]
    again = [started for started in starts if len([what for what in started if "@" in what]) > 1]
    assert len(again) == 2, starts  # those that the node held
    for started in starts:
        assert started.count("end") == 1, starts
        # What was taken up again went on from a checkpoint, and later each time.
        epochs = [int(what.partition("@")[2]) for what in started if "@" in what]
        assert epochs == sorted(set(epochs)), starts
    assert not any(is_alive(pid) for pid in journal.pids())
    # A second sweep over it has nothing to do.
    before = journal.starts()
    states, _ = overview(runs, tmp_path / "sweep")
    assert run_on_ray(runs, states, options=RayOptions(cluster.address), launch=launch(tmp_path))
    assert len(states.of("finished")) == 6
    assert journal.starts() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # as above
def test_a_crash_is_not_retried_and_stopping_leaves_nothing_behind(cluster: Any, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    runs = [fake_run("bad", journal, do="crash_at_once"), *runs_of(journal, 2, epochs=1000, seconds=0.1)]
    states, _ = overview(runs, tmp_path / "sweep")

    def press_ctrl_c() -> None:
        wait_until(lambda: (tmp_path / "sweep/r0/checkpoints/last.ckpt").exists(), "a run", seconds=90)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=press_ctrl_c)
    pressing.start()
    assert not run_on_ray(runs, states, options=RayOptions(cluster.address), launch=launch(tmp_path), grace=10)
    pressing.join()
    assert journal.of("bad") == ["fit@0"]
    assert states.states["bad"].status == "failed"
    assert journal.of("r0")[-1] == "interrupted"
    assert read_state(tmp_path / "sweep" / "r0").status == "interrupted"  # type: ignore[union-attr]  # it was started
    assert journal.of("r1") == []
    assert states.states["r1"].status == "waiting"
    assert not any(is_alive(pid) for pid in journal.pids())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # as above
def test_runs_share_a_gpu_as_ray_hands_it_out(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=4, num_gpus=1)  # Ray believes it
    journal = Journal(tmp_path / "journal")
    runs = runs_of(journal, 2, epochs=10, seconds=0.3)
    states, listener = overview(runs, tmp_path / "sweep")
    options = RayOptions(cluster.address, cpus=2, gpus=0.5)
    assert run_on_ray(runs, states, options=options, launch=launch(tmp_path))
    assert [state.device for state in states.of("finished")] == ["0", "0"]
    assert max(len(view.rows) for view in listener.views) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # as above
def test_what_no_node_has_is_refused_instead_of_waited_for(cluster: Any, tmp_path: Path) -> None:
    states, _ = overview([], tmp_path)
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 0\.5 GPUs, which no node .*\(1 CPUs, 0 GPUs\)"):
        run_on_ray([], states, options=RayOptions(cluster.address, gpus=0.5), launch=launch(tmp_path))
