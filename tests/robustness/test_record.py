import csv
import json
from pathlib import Path

import pytest
import torch

from qcal.robustness import (
    Logits,
    Record,
    Study,
    build_record,
    compare,
    read_logits,
    read_recalibration_logits,
    read_record,
    write_record,
)


def _logits(size: int) -> Logits:
    generator = torch.Generator().manual_seed(size)
    plain = torch.randn(size, 4, generator=generator)
    noisy = {
        name: plain + std * torch.randn(size, 4, generator=generator) for name, std in (("w8a8", 0.0), ("w4a8", 1.0))
    }
    return Logits(torch.arange(size) % 4, plain, noisy)


@pytest.fixture
def study() -> Study:
    return Study(_logits(40), {"name": "graph", "layers": ["fc"]}, 16, _logits(12), seconds={"evaluate": 0.5})


def test_what_was_written_is_read_back(study: Study, tmp_path: Path) -> None:
    record = build_record(study, {"seed": 3, "config": {"model": {"depth": 8}}})
    files = write_record(record, tmp_path, study=study)
    assert (
        {path.name for path in files}
        == {"records.json", "records.csv", "logits.npz"}
        == {path.name for path in tmp_path.iterdir()}
    )
    assert read_record(tmp_path) == record
    assert record.context["seed"] == 3
    assert record.context["placement"] == {"name": "graph", "layers": ["fc"]}
    assert record.context["range_estimation_images"] == 16
    assert record.context["recalibration_images"] == 12


def test_recalibration_logits_are_kept_apart(study: Study, tmp_path: Path) -> None:
    write_record(build_record(study), tmp_path / "with", study=study)
    write_record(build_record(study), tmp_path / "without", study=Study(study.compared))
    kept = read_recalibration_logits(tmp_path / "with" / "logits.npz")
    assert kept is not None
    assert study.recalibration is not None
    assert len(kept) == 12
    assert torch.equal(kept.settings["w4a8"], study.recalibration.settings["w4a8"])
    assert read_logits(tmp_path / "with" / "logits.npz").float.shape == (40, 4)
    assert read_recalibration_logits(tmp_path / "without" / "logits.npz") is None


def test_the_gap_between_float32_and_the_precision_of_training_is_stated(tmp_path: Path) -> None:
    trained = _logits(40)
    full = trained.float + 0.5 * torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    study = Study(Logits(trained.target, trained.float, trained.settings, full))
    record = build_record(study)
    gap = record.context["precision_gap"]
    assert gap["swap_rate"] == compare(trained.float, full, trained.target).swap_rate > 0
    assert gap["largest_logit_difference"] == pytest.approx((trained.float - full).abs().max().item())
    write_record(record, tmp_path, study=study)
    again = read_logits(tmp_path / "logits.npz")
    assert again.float32 is not None
    assert torch.equal(again.float32, full)
    assert list(again.settings) == ["w8a8", "w4a8"]
    assert "precision_gap" not in build_record(Study(_logits(40))).context


def test_a_record_of_nothing_but_an_error_is_written_and_read(tmp_path: Path) -> None:
    record = Record(None, {}, {"network": "Net"}, {"prepare": "cannot be exported"})
    write_record(record, tmp_path)
    assert read_record(tmp_path) == record
    assert (tmp_path / "records.csv").read_text().splitlines()[1:] == []


def test_undefined_damage_is_null_in_json_and_empty_in_csv(study: Study, tmp_path: Path) -> None:
    write_record(build_record(study), tmp_path)
    rows = json.loads((tmp_path / "records.json").read_text())["settings"]
    assert [row["setting"] for row in rows] == ["w8a8", "w4a8"]
    assert rows[0]["damage_per_swap"] is None
    assert rows[1]["damage_per_swap"] is not None
    with (tmp_path / "records.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["setting"] for row in table] == ["float", "w8a8", "w4a8"]
    assert table[1]["damage_per_swap"] == table[0]["swap_rate"] == ""
    assert float(table[2]["swap_rate"]) == rows[1]["swap_rate"]


def test_the_logits_file_suffices_to_compute_the_record_again(study: Study, tmp_path: Path) -> None:
    record = build_record(study)
    write_record(record, tmp_path, study=study)
    again = Study(read_logits(tmp_path / "logits.npz"))
    assert build_record(again).settings == record.settings
    assert build_record(again).float_scores == record.float_scores


def test_a_context_json_cannot_hold_writes_nothing(study: Study, tmp_path: Path) -> None:
    record = build_record(study, {"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_record(record, tmp_path, study=study)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "float"', "not whole JSON"),
        ('{"schema_version": 99}', "schema version 99, this qcal reads 2"),
    ],
)
def test_a_broken_or_newer_record_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no record .*records\.json"):
        read_record(tmp_path)


def test_records_compare_by_their_figures(study: Study) -> None:
    record = build_record(study)
    assert record == build_record(study)
    assert record != Record(record.float_scores, {})
