"""Threads and devices handed out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcal.sweep.resources import Resources, choose_devices, divide
from qcal.usage import UsageError


def divided(**given: Any) -> Resources:  # Any: the arguments of `divide`
    return divide(
        **{"jobs": None, "threads": None, "devices": None, "jobs_per_device": 1, "cpus": 8, "limit": "", **given}
    )


@given(st.integers(1, 64), st.integers(1, 64))
def test_jobs_never_have_more_threads_than_there_are_cpus_unless_there_are_more_jobs(cpus: int, jobs: int) -> None:
    resources = divided(cpus=cpus, jobs=jobs)
    assert len(resources.slots) == jobs
    assert resources.threads >= 1
    assert resources.threads * jobs <= max(cpus, jobs)


def test_without_devices_there_is_a_job_for_each_cpu() -> None:
    assert divided() == Resources((None,) * 8, 1)


def test_with_devices_there_is_a_job_for_each_place_and_neighbours_are_apart() -> None:
    assert divided(devices=["0", "1"], jobs_per_device=3).slots == ("0", "1", "0", "1", "0", "1")
    assert divided(devices=["0", "1"], jobs_per_device=3, jobs=3).slots == ("0", "1", "0")


def test_devices_that_are_not_wanted_are_hidden() -> None:
    assert divided(devices=[], jobs=2).slots == ("", "")


def test_the_users_own_limit_of_threads_is_kept_to() -> None:
    assert divided(jobs=2, limit="3").threads == 3
    assert divided(jobs=4, limit="3").threads == 2
    assert divided(jobs=4, limit="3", threads=6).threads == 6
    assert divided(jobs=4, limit="4,2").threads == 2  # OpenMP's form for nested regions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jobs": 0}, r"`--jobs` must be an integer of at least 1, got 0"),
        ({"threads": -1}, r"`--threads` must be an integer of at least 1, got -1"),
        ({"jobs_per_device": 0}, r"`--jobs-per-device` must be an integer of at least 1"),
        ({"devices": ["0", "1"], "jobs": 5}, r"`--jobs 5` is more than the 2 places .*`--jobs-per-device 3`"),
    ],
)
def test_what_cannot_be_divided_is_refused(given: dict[str, Any], message: str) -> None:  # Any: as above
    with pytest.raises(UsageError, match=message):
        divided(**given)


def test_devices_are_named_as_the_environment_names_them() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "GPU-1a, 3"}
    assert choose_devices("auto", environment, 2) == ["GPU-1a", "3"]
    assert choose_devices("3", environment, 2) == ["3"]
    assert choose_devices("auto", {"CUDA_VISIBLE_DEVICES": ""}, 0) == []
    assert choose_devices("none", environment, 2) == []


@pytest.mark.parametrize("asked", ["4", "0,0", ",", "all"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(asked: str) -> None:
    with pytest.raises(UsageError, match=r"must be `auto`, `none` or different ones of 0, 1"):
        choose_devices(asked, {}, 2)
