"""Two processes, joined by gloo, give what one gives."""

import multiprocessing
import traceback
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.functional.score_cases import random_logits
from tests.metrics.metric_cases import CASES, NUM_CLASSES, value_of

WAIT = 120


def _answer(rank: int, shares: list[slice], store: Path, answers: "Queue[dict[str, float] | str]") -> None:
    torch.set_num_threads(1)  # a forked OpenMP pool has no threads left to wait for
    try:
        answers.put(_score_a_share(rank, shares, store))
    except Exception:  # sent to the test, which would wait in vain otherwise
        answers.put(traceback.format_exc())


def _score_a_share(rank: int, shares: list[slice], store: Path) -> dict[str, float]:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(shares))
    logits, target = random_logits(150, NUM_CLASSES)
    logits, target = logits[shares[rank]], target[shares[rank]]
    values = {}
    for name, case in CASES.items():
        metric = case.make("logits")
        for start in range(0, len(target), 20):
            metric.update(logits[start : start + 20], target[start : start + 20])
        values[name] = value_of(metric).item()
    dist.destroy_process_group()
    return values


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork, to import torch once")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12 about fork; see set_num_threads
@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # on the process without samples
@pytest.mark.parametrize(
    "shares", [[slice(0, 90), slice(90, None)], [slice(0, None), slice(0, 0)]], ids=["both", "one"]
)
def test_two_processes_equal_one(shares: list[slice], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: Queue[dict[str, float] | str] = context.Queue()
    processes = [
        context.Process(target=_answer, args=(rank, shares, tmp_path / "store", answers), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        received = [answers.get(timeout=WAIT) for _ in processes]
        for process in processes:
            process.join(WAIT)
    finally:
        for process in processes:
            process.kill()
    logits, target = random_logits(150, NUM_CLASSES)
    expected = {name: case.expected(logits, target).item() for name, case in CASES.items()}
    assert received[0] == received[1]
    assert received[0] == pytest.approx(expected, abs=1e-9)
