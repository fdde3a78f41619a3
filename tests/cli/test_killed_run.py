"""A run that is killed leaves whole files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qcal.robustness import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--data.train_size", "256", "--data.range_estimation_size", "64", "--model.model.init_args.width", "4"]


def _wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"the run ended with {process.returncode} before {path.name} was there"
        assert time.monotonic() < deadline, f"{path} did not come within {seconds} s"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["last.ckpt", "logits"])
def test_a_killed_run_leaves_its_last_checkpoint_loadable_and_no_half_record(moment: str, tmp_path: Path) -> None:
    # Endless epochs for the one, a study right away for the other.
    epochs = "100000" if moment == "last.ckpt" else "1"
    arguments = [sys.executable, str(ROOT / "train.py"), "fit", *SMALL, "--trainer.max_epochs", epochs]
    arguments += ["--run.dir", str(tmp_path / "run"), "--wandb.mode", "disabled", "--trainer.accelerator", "cpu"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, env={**os.environ})
    try:
        checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
        _wait_for(checkpoint if moment == "last.ckpt" else tmp_path / "run" / "ptq", process)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
    for record in (tmp_path / "run").glob("ptq/records.json"):
        assert json.loads(record.read_text())["schema_version"] == SCHEMA_VERSION
