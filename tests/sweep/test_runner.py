"""Whole sweeps of fake runs: continuing, refusing, exit codes, and what is written and said."""

import io
import json
import os
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from qcal.sweep.local_engine import run_locally
from qcal.sweep.lock import lock
from qcal.sweep.overview import SweepDescription
from qcal.sweep.resolution import Run
from qcal.sweep.resources import Resources
from qcal.sweep.runner import plan, run_sweep
from qcal.usage import UsageError
from tests.sweep.fakes import Journal, fake_run, launch


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def sweep(runs: list[Run], tmp_path: Path, *, rerun_changed: bool = False) -> tuple[int, str]:
    """Its exit code, and what it said."""
    file = io.StringIO()
    engine = partial(
        run_locally, resources=Resources((None, None), 1), launch=launch(tmp_path, rerun_changed=rerun_changed)
    )
    todo = plan(runs, tmp_path / "sweep", rerun_changed=rerun_changed)
    description = SweepDescription("study", "study.yaml", "local", 2, ["qcal", "sweep", "study.yaml"])
    return run_sweep(todo, engine, description, Console(file=file, width=60)), file.getvalue()


def everything_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_ends_well_and_does_nothing_the_second_time(journal: Journal, tmp_path: Path) -> None:
    runs = [fake_run(name, journal) for name in "abc"]
    assert sweep(runs, tmp_path)[0] == 0
    assert sorted(path.parent.parent.name for path in (tmp_path / "sweep").glob("*/ptq/records.json")) == [*"abc"]
    before = {name: (tmp_path / "sweep" / name / "run.json").read_bytes() for name in "abc"}
    code, said = sweep(runs, tmp_path)
    assert code == 0
    assert said.count("skipped") == 3
    assert "3 of 3 runs are finished" in said
    assert journal.starts() == ["a fit@0", "b fit@0", "c fit@0"]
    assert {name: (tmp_path / "sweep" / name / "run.json").read_bytes() for name in "abc"} == before


def test_a_failure_is_named_with_its_reason_the_others_finish_and_the_next_time_it_goes_on(
    journal: Journal, tmp_path: Path
) -> None:
    runs = [
        fake_run("a", journal, do="crash_once"),
        fake_run("b", journal),
        fake_run("full", journal, do="full_disk"),
        fake_run("c", journal),
    ]
    code, said = sweep(runs, tmp_path)
    assert code == 1
    assert "2 of 4 runs are finished" in said
    assert "failed: a: exit code 1: RuntimeError: CUDA out of memory" in said
    assert "failed: full: exit code 1: OSError: [Errno 28] No space left on device" in said
    assert "Free space on the disk; then the same command tries again" in said
    assert f"what it said: {tmp_path}/sweep/full/run.log" in said
    assert "from the last checkpoint" in said
    code, said = sweep([*runs[:2], fake_run("full", journal), runs[3]], tmp_path)
    assert code == 0
    assert journal.of("a") == ["fit@0", "fit@1", "end"]
    assert journal.of("b") == ["fit@0", "end"]
    assert journal.of("full") == ["fit@0", "fit@0", "end"]


def test_changed_runs_are_named_and_nothing_at_all_is_done(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    before = everything_under(tmp_path)
    changed = [fake_run("a", journal), fake_run("b", journal, epochs=5), fake_run("new", journal)]
    with pytest.raises(UsageError) as error:
        sweep(changed, tmp_path)
    assert str(error.value).startswith("1 of 3 runs in ")
    assert "\n  b: fake.epochs: 2 -> 5\n" in str(error.value)
    assert "`--rerun-changed` (their old folders are kept in" in str(error.value)
    assert everything_under(tmp_path) == before


def test_changed_runs_are_run_anew_when_asked_and_what_was_there_is_kept(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    old = everything_under(tmp_path / "sweep" / "b")
    changed = [fake_run("a", journal), fake_run("b", journal, epochs=5)]
    assert sweep(changed, tmp_path, rerun_changed=True)[0] == 0
    kept = everything_under(tmp_path / "sweep" / "kept" / "b-1")
    assert sorted(kept.values()) == sorted(old.values())
    assert journal.starts() == ["a fit@0", "b fit@0", "b fit@0"]
    # A report over the sweep does not take the old run for one of it.
    assert len(list((tmp_path / "sweep").glob("*/ptq"))) == 2
    assert sweep(changed, tmp_path)[0] == 0  # no longer changed
    assert len(journal.starts()) == 3


def test_what_no_sweep_wrote_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal)], tmp_path)
    mine = tmp_path / "sweep" / "b" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"b: its folder holds files, but no `run\.json` of a sweep"):
        sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    assert mine.read_text() == "mine"


def test_a_folder_that_is_no_sweeps_is_refused(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"holds files, but no sweep\.json"):
        sweep([fake_run("a", journal)], tmp_path)
    (tmp_path / "sweep" / "thesis.tex").unlink()
    (tmp_path / "sweep").rmdir()
    (tmp_path / "sweep").write_text("a file")
    with pytest.raises(UsageError, match="must be a folder, got the file"):
        sweep([fake_run("a", journal)], tmp_path)


def test_a_second_sweep_in_the_same_folder_is_refused_while_the_first_goes_on(journal: Journal, tmp_path: Path) -> None:
    held = lock(tmp_path / "sweep" / ".locks" / "sweep.lock")
    assert held is not None
    with pytest.raises(UsageError, match="Another sweep works in"):
        sweep([fake_run("a", journal)], tmp_path)
    os.close(held)
    assert sweep([fake_run("a", journal)], tmp_path)[0] == 0


def test_runs_that_the_file_no_longer_has_are_named_and_stay(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    code, said = sweep([fake_run("a", journal)], tmp_path)
    assert code == 0
    assert "Folders of runs that the sweep file no longer has: b. They stay as they are." in said
    assert (tmp_path / "sweep" / "b" / "ptq" / "records.json").exists()


def test_runs_of_the_sweep_that_are_not_wanted_now_are_no_strangers(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    todo = plan([fake_run("a", journal)], tmp_path / "sweep", others={"b", "c"})
    file = io.StringIO()
    description = SweepDescription("study", "study.yaml", "local", 1, [])
    assert run_sweep(todo, lambda runs, overview: True, description, Console(file=file, width=60)) == 0
    assert "1 of 1 runs are finished" in file.getvalue()
    assert "2 other runs of the sweep were left as they are; the same command without `--only`" in file.getvalue()
    assert "no longer has" not in file.getvalue()


def test_the_sweeps_own_file_says_what_it_was(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal), fake_run("b", journal, do="crash_at_once")], tmp_path)
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert (content["name"], content["file"], content["engine"], content["jobs"]) == ("study", "study.yaml", "local", 2)
    assert content["started"] <= content["finished"]
    assert [(run["name"], run["status"]) for run in content["runs"]] == [("a", "finished"), ("b", "failed")]
    assert content["runs"][1]["reason"].startswith("exit code 1: `gamma`")


def test_a_stopped_sweep_says_how_to_go_on(journal: Journal, tmp_path: Path) -> None:
    file = io.StringIO()
    todo = plan([fake_run("a", journal)], tmp_path / "sweep")
    description = SweepDescription("study", "study.yaml", "local", 2, [])
    assert run_sweep(todo, lambda runs, overview: False, description, Console(file=file)) == 130
    assert "Stopped. The same command goes on: finished runs are skipped" in file.getvalue()
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["finished"] is None


def test_a_sweep_whose_own_file_was_never_written_is_still_one(journal: Journal, tmp_path: Path) -> None:
    sweep([fake_run("a", journal)], tmp_path)
    (tmp_path / "sweep" / "sweep.json").unlink()
    assert sweep([fake_run("a", journal)], tmp_path)[0] == 0
    assert journal.starts() == ["a fit@0"]


def test_a_sweep_goes_on_when_its_own_file_cannot_be_written(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qcal.sweep.overview.replacing", fail)
    code, said = sweep([fake_run("a", journal), fake_run("b", journal)], tmp_path)
    assert code == 0
    assert said.count("sweep.json could not be written ([Errno 28] No space left on device); the sweep goes on.") == 1
