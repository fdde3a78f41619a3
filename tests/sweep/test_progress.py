"""How far runs are, and how long the rest takes."""

from pathlib import Path

import pytest

from qcal.sweep.progress import Going, as_time, epochs_done, remaining_seconds

HEADER = "epoch,step,train/loss_epoch,train/loss_step,val/accuracy\n"


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("", None),
        ("step,lr\n1,0.1\n", None),
        (HEADER, None),
        (f"{HEADER}0,4,,2.0,\n", 0),
        (f"{HEADER}0,4,,2.0,\n0,9,,,0.5\n", 1),
        (f"{HEADER}0,4,,2.0,\n0,9,1.5,,\n", 1),
        (f"{HEADER}0,9,,,0.5\n1,12,,1.9,\n", 1),
        (f"{HEADER}7,9,,,0.5\n8,12,,,0.6\n", 9),  # of a resumed run
        (f"{HEADER}3,9,,,0.5\n,210,,,\n", 4),  # the study's figures have no epoch
        (f"{HEADER}3,9,,,0.5\n4,1", 4),  # being written
    ],
)
def test_epochs_are_counted_when_they_are_complete(text: str, done: int | None, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert epochs_done(tmp_path / "metrics.csv") == done


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    rows = "".join(f"{epoch},{epoch},0.5,,0.5\n" for epoch in range(20_000))
    (tmp_path / "metrics.csv").write_text(HEADER + rows)
    assert epochs_done(tmp_path / "metrics.csv") == 20_000


def test_a_run_that_has_written_nothing_has_no_count(tmp_path: Path) -> None:
    assert epochs_done(tmp_path / "metrics.csv") is None


def test_nothing_is_guessed_before_there_is_something_to_judge_by() -> None:
    assert remaining_seconds([Going("a", 30.0, None), Going("a", 30.0, 0.05)], ["a"], {}, jobs=2) is None


def test_the_first_guess_comes_from_a_run_that_goes_on() -> None:
    assert remaining_seconds([Going("a", 30.0, 0.25)], ["a"], {}, jobs=1) == pytest.approx(90 + 120)


def test_each_base_is_judged_by_its_own_runs() -> None:
    took = {"small": 10.0, "large": 100.0}
    assert remaining_seconds([], ["small", "large", "large"], took, jobs=2) == pytest.approx(105)


def test_a_run_that_is_being_measured_is_not_said_to_be_over() -> None:
    measured = Going("a", 60.0, 1.0)
    assert remaining_seconds([measured], [], {}, jobs=1) is None
    assert remaining_seconds([measured, Going("b", 10.0, 0.5)], ["a"], {}, jobs=2) is None
    assert remaining_seconds([measured], ["a"], {"a": 80.0}, jobs=1) == pytest.approx(20 + 80)


def test_the_sweep_lasts_as_long_as_its_longest_run() -> None:
    assert remaining_seconds([Going("a", 10.0, 0.1)], [], {"a": 100.0}, jobs=8) == pytest.approx(90)


def test_nothing_left_is_no_time() -> None:
    assert remaining_seconds([], [], {"a": 5.0}, jobs=1) == 0


def test_times_can_be_read() -> None:
    assert [as_time(seconds) for seconds in (0, 89, 90, 5300, 5400, 90_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "88 min",
        "1 h 30 min",
        "25 h 00 min",
    ]
