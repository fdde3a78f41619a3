"""The configs of many runs, told once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from qcal.report.configs import Configs, compare_configs
from qcal.report.find_records import find_records, read_records
from qcal.report.runs import Run, read_run
from tests.report.synthetic_runs import write_run


def _runs(tmp_path: Path, *configs: dict[str, Any] | None) -> list[Run]:  # Any: the plain values of a YAML file
    write_run(tmp_path / "one", num_images=20)
    found, _ = read_records(find_records([str(tmp_path)])[0])
    run = read_run(found[0])
    return [
        replace(run, name=f"run{number}", context={"config": config} if config else {})
        for number, config in enumerate(configs)
    ]


def _own(configs: Configs) -> list[tuple[str, str]]:
    return [(name.text, own.text) for name, own in configs.own.rows]


def test_what_all_share_is_told_once_and_the_rest_by_run(tmp_path: Path) -> None:
    shared = {"data": {"class_path": "Digits", "init_args": {"mean": [0.5], "root": None}}}
    configs = compare_configs(
        _runs(
            tmp_path,
            {
                **shared,
                "seed_everything": 0,
                "model": {"loss": {"class_path": "Dial", "init_args": {"strength": -1.0}}},
            },
            {**shared, "seed_everything": 1, "model": {"loss": {"class_path": "Focal", "init_args": {"gamma": 3.0}}}},
        )
    )
    assert configs.shared == {"data": {"class_path": "Digits", "init_args": {"mean": [0.5]}}}
    assert _own(configs) == [
        ("run0", "seed_everything 0; model.loss.class_path Dial; model.loss.init_args.strength -1.0"),
        ("run1", "seed_everything 1; model.loss.class_path Focal; model.loss.init_args.gamma 3.0"),
    ]
    assert configs.without == ()


def test_a_value_is_not_taken_for_another_that_python_calls_equal(tmp_path: Path) -> None:
    configs = compare_configs(_runs(tmp_path, {"a": True, "b": None}, {"a": 1, "b": 0}))
    assert configs.shared == {}
    assert _own(configs) == [("run0", "a true; b null"), ("run1", "a 1; b 0")]


def test_folders_and_tracking_are_no_difference(tmp_path: Path) -> None:
    configs = compare_configs(_runs(tmp_path, {"a": 1, "run": {"dir": "x"}}, {"a": 1, "run": {"dir": "y"}}))
    assert configs.shared == {"a": 1}
    assert _own(configs) == [("run0", ""), ("run1", "")]


def test_a_run_without_a_config_is_named_and_one_alone_has_nothing_to_differ_from(tmp_path: Path) -> None:
    configs = compare_configs(_runs(tmp_path, {"a": 1}, None))
    assert (configs.shared, _own(configs), configs.without) == ({"a": 1}, [], ("run1",))
