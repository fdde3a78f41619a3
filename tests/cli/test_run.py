import socket
import threading
import time
from pathlib import Path

import pytest

from qcal.cli import run
from qcal.cli.run import RunOptions, WandbOptions, choose_run_folder


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_without_a_key_the_run_is_offline() -> None:
    assert run._wandb_mode(WandbOptions()) == "offline"


def test_with_a_key_but_no_server_the_run_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    assert run._wandb_mode(WandbOptions()) == "offline"


def test_a_name_that_is_looked_up_for_ever_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    over = threading.Event()

    def look_up(*_args: object, **_kwargs: object) -> None:
        over.wait(30)
        raise OSError("no name server")

    monkeypatch.setattr(socket, "create_connection", look_up)
    before = time.monotonic()
    assert run._wandb_mode(WandbOptions()) == "offline"
    assert time.monotonic() - before < 10
    over.set()


@pytest.mark.parametrize("by", ["variable", "netrc"])
def test_with_a_key_and_a_server_the_run_is_online(by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        if by == "variable":
            monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        else:
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
            (tmp_path / "netrc").chmod(0o600)
        assert run._wandb_mode(WandbOptions()) == "online"


def test_what_is_asked_for_wins_over_the_variable_and_the_variable_over_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert run._wandb_mode(WandbOptions()) == "disabled"
    assert run._wandb_mode(WandbOptions(mode="offline")) == "offline"


def test_an_unnamed_run_gets_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, folder = choose_run_folder(RunOptions(), "digits", resumed=False)
    assert name.startswith("digits-")
    assert folder == Path("runs") / name
    assert not folder.exists()
    folder.mkdir(parents=True)
    assert choose_run_folder(RunOptions(), "digits", resumed=False)[1] != folder


def test_a_name_that_is_taken_is_refused_unless_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    options = RunOptions(dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="holds a run already"):
        choose_run_folder(options, "digits", resumed=False)
    assert choose_run_folder(options, "digits", resumed=True)[1] == tmp_path / "run"
