"""What a sweep shows."""

import io

import pytest
from rich.console import Console

from qcal.sweep.display import LineDisplay, Row, TableDisplay, View, make_display, render, summary

VIEW = View(
    rows=[
        Row("default,dial=-1,seed=0", 7, 15, 12.0, 14.0, "0"),
        Row("default,dial=1,seed=0", 15, 15, 21.0, None, "1", studied=True),
    ],
    counts={"finished": 3, "running": 2, "failed": 1, "waiting": 9},
    total=15,
    elapsed=60.0,
    remaining=240.0,
    failures=["default,focal,seed=0"],
)


def text_of(view: View, **how: int) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(render(view, **how))
    return capture.get()


def test_each_run_has_a_bar_its_epochs_and_its_times() -> None:
    lines = [line.rstrip() for line in text_of(VIEW).splitlines()]
    assert lines[0].split() == ["run", "epoch", "time", "left", "device"]
    assert lines[1].split()[0] == "default,dial=-1,seed=0"
    assert "7/15" in lines[1]
    assert "14 s" in lines[1]
    assert "━" in lines[1]
    assert "quantizing" in lines[2]
    assert lines[3] == "3 of 15 finished, 2 running, 1 failed, 60 s so far, about 4 min left"
    assert lines[4] == "failed: default,focal,seed=0"
    assert all(len(line) <= 100 for line in lines)


def test_on_a_narrow_terminal_names_are_cut_and_figures_are_not() -> None:
    console = Console(file=io.StringIO(), width=80)
    row = Row("resnet56,negative_label_smoothing,seed=4", 80, 160, 40_000.0, 39_000.0, "GPU-7f3b-1234-5678")
    with console.capture() as capture:
        console.print(render(View(rows=[row], total=1), width=80))
    line = capture.get().splitlines()[1]
    assert len(line.rstrip()) <= 80
    assert line.startswith("resnet56,neg")
    assert "80/160 11 h 07 min 10 h 50 min GPU-7f3b-1" in line


def test_more_runs_than_lines_are_cut() -> None:
    assert "dial=1" not in text_of(VIEW, rows=1)


def test_runs_without_devices_have_no_column_for_them() -> None:
    assert "device" not in text_of(View(rows=[Row("a", 0, None, 1.0)], total=1))


def test_a_terminal_gets_a_table_and_a_file_gets_lines() -> None:
    assert isinstance(make_display(Console(file=io.StringIO(), force_terminal=True)), TableDisplay)
    assert isinstance(make_display(Console(file=io.StringIO())), LineDisplay)


def test_the_table_is_live_and_what_happened_stays() -> None:
    file = io.StringIO()
    with TableDisplay(Console(file=file, force_terminal=True, width=100)) as shown:
        shown.show(VIEW)
        shown.tell("12:00:00 [1/15] finished  [a]")
    assert "7/15" in file.getvalue()
    assert "finished  [a]" in file.getvalue()


def test_lines_say_what_happened_and_once_a_minute_how_things_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("qcal.sweep.display.monotonic", lambda: clock[0])
    file = io.StringIO()
    with LineDisplay(Console(file=file, width=40)) as shown:
        shown.tell("started")
        for second in range(130):
            clock[0] = float(second)
            shown.show(VIEW)
    lines = file.getvalue().splitlines()
    assert lines[0] == "started"
    assert len(lines) == 3  # after one and after two minutes, each on one line however narrow
    assert lines[1].startswith(f"{summary(VIEW)}: default,dial=-1,seed=0 7/15, ")
