"""Sweeps multiplied out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcal.sweep.expansion import choose, expand
from qcal.sweep.sweep_file import Choice, Sweep
from qcal.usage import UsageError


def choices(prefix: str, count: int) -> tuple[Choice, ...]:
    return tuple(Choice(f"{prefix}{number}", (f"--{prefix}={number}",)) for number in range(count))


@given(st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 3))
def test_every_combination_is_there_once(bases: int, regimes: int, grid: list[int], seeds: int) -> None:
    axes = tuple(choices(f"g{position}x", count) for position, count in enumerate(grid))
    sweep = Sweep("s", choices("b", bases), choices("r", regimes), axes, tuple(range(seeds)), ())
    runs = expand(sweep)
    expected = bases * regimes * seeds
    for count in grid:
        expected *= count
    assert len(runs) == len({run.name for run in runs}) == len({run.arguments for run in runs}) == expected


def test_configs_come_first_and_the_more_particular_later() -> None:
    sweep = Sweep(
        "s",
        (Choice("base", ("-c", "base.yaml", "--depth=56")),),
        (Choice("dial=1", ("-c", "dial.yaml", "--strength=1")),),
        ((Choice("lr=0.1", ("--lr=0.1",)),),),
        (7,),
        ("--epochs=2", "--epochs=1"),
    )
    (run,) = expand(sweep)
    assert run.name == "base,dial=1,lr=0.1,seed=7"
    assert run.arguments == (
        *("-c", "base.yaml", "-c", "dial.yaml", "--depth=56", "--epochs=2", "--epochs=1"),
        *("--strength=1", "--lr=0.1", "--seed_everything=7"),
    )


def test_the_seeds_come_slowest_so_that_whole_comparisons_come_first() -> None:
    sweep = Sweep("s", choices("b", 1), choices("r", 2), (), (0, 1), ())
    assert [run.name for run in expand(sweep)] == ["b0,r0,seed=0", "b0,r1,seed=0", "b0,r0,seed=1", "b0,r1,seed=1"]


def test_a_part_of_a_sweep_is_chosen_by_name_and_keeps_its_order() -> None:
    runs = expand(Sweep("s", choices("b", 2), choices("r", 2), (), (0, 1), ()))
    assert choose(runs, []) == runs
    assert [run.name for run in choose(runs, ["b1,*,seed=0", "b0,r1,seed=0"])] == [
        *("b0,r1,seed=0", "b1,r0,seed=0", "b1,r1,seed=0")
    ]
    # A pattern is of the whole name: `seed=1` alone would also be `seed=10`.
    with pytest.raises(
        UsageError, match=r"`--only seed=1` fits none of the 8 runs, which are called 'b0,r0,seed=0' to"
    ):
        choose(runs, ["b0,*", "seed=1"])


def test_a_sweep_without_regimes_has_no_part_for_them_in_its_names() -> None:
    assert [run.name for run in expand(Sweep("s", choices("b", 1), (Choice("", ()),), (), (0,), ()))] == ["b0,seed=0"]


def test_two_different_runs_of_one_name_are_refused_with_both() -> None:
    regimes = (Choice("focal", ("-c", "regimes/focal.yaml")), Choice("focal", ("-c", "mine/focal.yaml")))
    with pytest.raises(
        UsageError, match=r"(?s)Two different runs have the name 'b0,focal,seed=0'.*mine/focal.*name of"
    ):
        expand(Sweep("s", choices("b", 1), regimes, (), (0,), ()))


def test_a_run_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'b0,r0,seed=4' is listed twice"):
        expand(Sweep("s", choices("b", 1), choices("r", 1), (), (4, 4), ()))


def test_an_override_of_what_an_axis_varies_is_refused() -> None:
    with pytest.raises(UsageError, match="`r` is both overridden for all runs and varied"):
        expand(Sweep("s", choices("b", 1), choices("r", 2), (), (0,), ("--r=3",)))
