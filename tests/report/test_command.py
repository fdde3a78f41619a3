import os
from pathlib import Path

import pytest

from qcal.cli import main
from tests.report.synthetic_runs import write_run, write_sweep


def test_the_command_writes_the_report_and_prints_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "runs", seeds=2, num_images=200)
    (tmp_path / "runs" / "cut").mkdir()
    (tmp_path / "runs" / "cut" / "records.json").write_text("{")
    assert main(["report", "runs", "-o", "out", "--title", "Digits & dials"]) == 0
    told = capsys.readouterr().out
    assert "Reading 10 records" in told
    assert "Whether a" in told or "Over 10 runs" in told
    assert "1 left out: the page says which, and why." in told
    assert "out/index.html" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"index.html", "figures", "runs.csv", "runs.parquet"}
    assert "<h1>Digits &amp; dials</h1>" in (tmp_path / "out" / "index.html").read_text()


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code: int | str | None = main(["report", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("qcal: error: ")
    assert "Traceback" not in error
    return error


def test_a_mistake_is_one_message_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "pass run folders, a sweep's folder or a glob" in _error(capsys, "empty")
    assert "There is no nowhere" in _error(capsys, "nowhere")
    assert "required: RUNS. See `qcal report --help`." in _error(capsys)
    write_run(tmp_path / "old")
    (tmp_path / "old" / "ptq" / "records.json").write_text('{"schema_version": 1}')
    error = _error(capsys, "old")
    assert "has schema version 1, this qcal reads 2. Use the qcal that wrote it, or run the study again." in error
    (tmp_path / "file").write_text("")
    write_run(tmp_path / "run")
    error = _error(capsys, "run", "-o", "file/report")
    assert "file/report cannot be written" in error
    assert "Pass a folder that can as `-o`." in error
    assert not (tmp_path / "report").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_is_said_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in _error(capsys, str(tmp_path / "run"), "-o", str(tmp_path / "locked"))
