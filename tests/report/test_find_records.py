import json
import os
from pathlib import Path

import pytest

from qcal.report.find_records import find_records, read_records
from qcal.usage import UsageError
from tests.report.synthetic_runs import write_run, write_sweep


def _names(*places: Path | str) -> list[str]:
    return [each.name for each in read_records(find_records([str(place) for place in places])[0])[0]]


def test_runs_are_found_however_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / "sweep" / name)
    monkeypatch.chdir(tmp_path)
    assert _names("sweep") == ["a", "b"]
    assert _names("sweep/a") == _names("sweep/a/ptq") == _names("sweep/a/ptq/records.json") == ["a"]
    assert _names("sweep/*") == _names("sweep/*/ptq", "sweep") == _names("s*/**/records.json") == ["a", "b"]


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        write_run(tmp_path / sweep / "ce")
    write_run(tmp_path / "two" / "focal")
    assert _names(tmp_path) == ["one/ce", "two/ce", "focal"]


def test_of_several_studies_of_a_run_the_last_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for number in (2, 10):
        (run / f"ptq-{number}").mkdir()
        os.link(run / "ptq" / "records.json", run / f"ptq-{number}" / "records.json")
    folders, skipped = find_records([str(tmp_path)])
    assert [folder.name for folder in folders] == ["ptq-10"]
    assert [Path(each.name).name for each in skipped] == ["ptq", "ptq-2"]
    assert "ptq-10 is a later study" in skipped[1].reason
    assert _names(run / "ptq-2") == ["run (study 2)"]
    folders, skipped = find_records([str(tmp_path), str(run / "ptq")])
    assert [folder.name for folder in folders] == ["ptq-10", "ptq"]
    assert [Path(each.name).name for each in skipped] == ["ptq-2"]


def test_each_loader_of_a_study_is_a_record(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for loader in ("clean", "noisy"):
        (tmp_path / "run" / "ptq" / loader).mkdir()
        os.link(tmp_path / "run" / "ptq" / "records.json", tmp_path / "run" / "ptq" / loader / "records.json")
    (tmp_path / "run" / "ptq" / "records.json").unlink()
    assert _names(tmp_path / "run") == ["run on clean", "run on noisy"]


def test_what_a_sweep_replaced_or_did_not_finish_is_named(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", seeds=1, strengths=(0.0,))
    write_run(sweep / "kept" / "dial=0,seed=0")
    (sweep / "dial=1,seed=0").mkdir()
    state = {"name": "dial=1,seed=0", "status": "failed", "reason": "CUDA out of memory"}
    (sweep / "dial=1,seed=0" / "run.json").write_text(json.dumps(state))
    folders, skipped = find_records([str(sweep)])
    assert len(folders) == 1
    assert {Path(each.name).relative_to(sweep.resolve()).as_posix(): each.reason for each in skipped} == {
        "kept/dial=0,seed=0/ptq": "A sweep moved this run aside and ran it anew. Name its folder to report it.",
        "dial=1,seed=0": "No record; its sweep says failed: CUDA out of memory. Start the sweep again.",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"schema_version": 2, "float"', "is not whole JSON"),
        ('{"schema_version": 1}', "has schema version 1, this qcal reads 2. Use the qcal that wrote it"),
        ('{"schema_version": 2, "float": null}', "lacks what a record holds (KeyError: 'settings')"),
        (
            '{"schema_version": 2, "float": null, "settings": [], "context": {}, "errors": {"w4a4": "no memory"}}',
            "Nothing was measured (w4a4: no memory)",
        ),
        ("[]", "lacks what a record holds"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_not_fatal(content: str, reason: str, tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad")
    (tmp_path / "bad" / "ptq" / "records.json").write_text(content)
    found, skipped = read_records(find_records([str(tmp_path)])[0])
    assert [each.name for each in found] == ["good"]
    assert reason in skipped[0].reason
    with pytest.raises(UsageError, match="None of 1 records can be reported"):
        read_records([tmp_path / "bad" / "ptq"])


def test_no_record_and_no_place_say_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no record in .*pass run folders, a sweep's folder or a glob"):
        find_records([str(tmp_path)])
    with pytest.raises(UsageError, match=r"There is no .*nothing\*.*matches some"):
        find_records([str(tmp_path / "nothing*")])
