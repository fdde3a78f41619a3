"""A full disk, or Ctrl-C, during a run: one message, nothing lost, and the run goes on as the message says."""

import errno
import shlex
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from qcal.cli import main
from qcal.cli.broken_off import telling_how_to_go_on
from qcal.robustness import read_record
from qcal.tasks import Classifier
from qcal.usage import BrokenOffError
from tests.cli.test_entry import SMALL

QUIET = ["--wandb.mode", "disabled"]


def _fill_up(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """A disk that has room for `after` checkpoints."""
    write, written = Path.write_bytes, []

    def full(self: Path, content: memoryview) -> int:
        if self.suffix == ".ckpt":
            written.append(self)
            if len(written) > after:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, bytes(content))

    monkeypatch.setattr(Path, "write_bytes", full)


def test_a_run_whose_disk_fills_up_says_what_is_kept_and_goes_on_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as disk:
        _fill_up(disk, after=2)  # best and last of the first epoch
        assert main(["fit", *SMALL, *QUIET, "--trainer.max_epochs", "2", "--run.dir", "run"]) == 1
    error = capsys.readouterr().err
    assert "The disk is full ([Errno 28] No space left on device), so the run in run stopped." in error
    assert "Traceback" not in error
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2

    told = error.split("go on with `")[1].split("`")[0]
    assert main([*shlex.split(told), *QUIET]) == 0
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    assert list(read_record(tmp_path / "run" / "ptq").settings) == ["w8a8", "w3a8"]


def test_a_run_without_a_checkpoint_says_so_here_and_when_its_folder_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as disk:
        _fill_up(disk, after=0)
        assert main(["fit", *SMALL, *QUIET, "--run.dir", "run"]) == 1
    assert "It had kept no checkpoint. Free space, then move run away" in capsys.readouterr().err
    assert main(["fit", *SMALL, *QUIET, "--run.dir", "run"]) == 2
    assert "move that folder away: it has no checkpoint to go on from" in capsys.readouterr().err


def test_any_other_error_keeps_its_type(tmp_path: Path) -> None:
    telling = partial(telling_how_to_go_on, tmp_path, tmp_path / "last.ckpt", was_stopped=lambda: False)
    with pytest.raises(PermissionError), telling():
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(SystemExit), telling():
        raise SystemExit(1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_used_up_quota_is_a_full_disk(number: int, tmp_path: Path) -> None:
    telling = telling_how_to_go_on(tmp_path, tmp_path / "last.ckpt", was_stopped=lambda: False)
    with pytest.raises(BrokenOffError, match="The disk is full"), telling:
        raise OSError(number, "no more")


def test_ctrl_c_ends_a_run_with_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(self: Classifier) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as hand:
        hand.setattr(Classifier, "on_train_epoch_start", press)
        before = signal.getsignal(signal.SIGINT)
        try:
            assert main(["fit", *SMALL, *QUIET, "--trainer.max_epochs", "2", "--run.dir", "run"]) == 130
        finally:
            signal.signal(signal.SIGINT, before)  # Lightning lets it be ignored from then on
    error = capsys.readouterr().err
    checkpoint = Path("run") / "checkpoints" / "last.ckpt"
    assert f"The run in run was stopped. Its last whole checkpoint is {checkpoint}. Go on with `fit -c run/" in error
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    assert main([*shlex.split(error.split("Go on with `")[1].split("`")[0]), *QUIET]) == 0
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
