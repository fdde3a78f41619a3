"""The command line's Weights & Biases run: what it is called, where it goes on, what it does without a server."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]  # exported without saying so

from qcal.cli import main, run
from qcal.cli.run import RunDescription, WandbOptions, make_loggers
from qcal.cli.wandb_run import IDENTITY_FILE, describing_tags, earlier_studies, find_identity, keep_identity
from tests.cli.test_entry import SMALL
from tests.support.wandb_file import WandbRun, read_run

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = (
    "MODE",
    "API_KEY",
    "IDENTITY_TOKEN_FILE",
    "BASE_URL",
    "RUN_ID",
    "RUN_GROUP",
    "SWEEP_ID",
    "TAGS",
    "JOB_TYPE",
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty working folder and no account; nothing is left to other tests."""
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.finish()
    wandb.teardown()


def _run(folder: Path, options: WandbOptions, description: RunDescription | None = None) -> Any:
    """The run of wandb that a command would begin. Any: its type is wandb's own."""
    logger = _logger(folder, options, description or RunDescription())
    return logger.experiment  # type: ignore[attr-defined]  # every concrete logger has it


def _logger(folder: Path, options: WandbOptions, description: RunDescription) -> Logger:
    return make_loggers("mine", folder, options, {"model": {"width": 4}}, description)[1]


def _parts(folder: Path) -> list[WandbRun]:
    """The offline parts of the run in `folder`, in their order."""
    wandb.finish()
    return [read_run(part) for part in sorted(folder.glob("wandb/offline-run-*"))]


def test_a_run_shows_what_it_is_keeps_its_best_and_goes_on_as_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", *SMALL, "-c", "configs/regimes/focal.yaml", "--run.dir", "run"]
    asked = ["--wandb.group", "together", "--wandb.tags", "[mine]", "--wandb.project", "elsewhere"]
    assert main([*arguments, *asked]) == 0
    folder = tmp_path / "run"
    (first,) = _parts(folder)
    assert first.name.startswith("digits-cifarresnet-focal-seed0-")
    assert (first.project, first.group, first.job_type) == ("elsewhere", "together", "fit")
    assert first.tags == ["regime:focal", "model:CifarResNet8", "data:Digits", "mine"]
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    for group in ("model", "data", "trainer", "ptq", "checkpoint"):
        assert first.config[group].keys() == saved[group].keys()
    assert first.config["model"] == saved["model"]

    for name in ("val/accuracy", "val/nll", "confidence/ece", "train/loss_epoch"):
        assert first.metrics[name].step_metric == "epoch"
        assert any(name in row and "epoch" in row for row in first.history)
    assert first.metrics["ptq/w3a8/error_change"].step_metric == "ptq/epoch"
    assert first.summary["best/val/accuracy"] == first.summary["val/accuracy"]  # of one epoch
    best = folder / "checkpoints" / "best.ckpt"
    contents = {
        artifact.name: {entry.path: entry.size for entry in artifact.manifest.contents}
        for artifact in first.artifacts
        if artifact.type != "run_table"
    }
    assert set(contents) == {f"{kind}-{first.id}" for kind in ("qcal-record", "qcal-logits", "model")}
    assert contents[f"model-{first.id}"] == {"best.ckpt": best.stat().st_size}
    (model,) = [artifact for artifact in first.artifacts if artifact.type == "model"]
    assert set(model.aliases) == {"best", "latest"}

    capsys.readouterr()
    more = ["--trainer.max_epochs", "2", "--ckpt_path", "run/checkpoints/last.ckpt"]
    assert main([*arguments, *asked, *more]) == 0
    first_folder, second_folder = sorted(folder.glob("wandb/offline-run-*"))
    printed = capsys.readouterr().out
    assert f"wandb sync {first_folder.relative_to(tmp_path)} {second_folder.relative_to(tmp_path)}" in printed
    _, second = _parts(folder)
    assert (second.id, second.name) == (first.id, first.name)
    steps = [[row["trainer/global_step"] for row in part.history if "val/accuracy" in row] for part in (first, second)]
    assert steps == [[1], [3]]
    assert [row["ptq/epoch"] for row in second.history if "ptq/w3a8/swap_rate" in row] == [2]
    assert [row["ptq/setting_index-2"] for row in second.history if "ptq/settings-2/swap_rate" in row] == [0, 1]
    assert not any("ptq/settings/swap_rate" in row for row in second.history)


@pytest.mark.slow
def test_two_processes_write_one_whole_run(tmp_path: Path) -> None:
    # From a process of its own: autograd that ran before cannot be forked.
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    arguments = [sys.executable, str(ROOT / "train.py"), "fit", *SMALL, *two, "--run.dir", str(tmp_path / "run")]
    subprocess.run(arguments, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (part,) = _parts(tmp_path / "run")
    assert [row["trainer/global_step"] for row in part.history if "val/accuracy" in row] == [
        0
    ]  # one step of two halves
    assert {artifact.type for artifact in part.artifacts} == {"qcal-record", "qcal-logits", "model", "run_table"}
    assert "ptq/w3a8/swap_rate" in part.summary


def test_a_run_that_breaks_is_ended_as_one(tmp_path: Path) -> None:
    logger: Any = _logger(tmp_path / "run", WandbOptions(mode="offline"), RunDescription())
    logger.experiment.log({"a": 1})
    logger.finalize("failed")
    (part,) = _parts(tmp_path / "run")
    assert (part.exit_code, part.artifacts) == (1, [])


def test_what_is_not_wanted_is_not_uploaded(tmp_path: Path) -> None:
    assert main(["fit", *SMALL, "--run.dir", "run", "--wandb.upload", "[record]"]) == 0
    (part,) = _parts(tmp_path / "run")
    assert {artifact.type for artifact in part.artifacts} == {"qcal-record", "run_table"}


def test_a_test_is_a_run_of_another_kind(tmp_path: Path) -> None:
    assert main(["test", *SMALL, "--run.dir", "run", "--wandb.upload", "[]"]) == 0
    (part,) = _parts(tmp_path / "run")
    assert part.job_type == "test"
    assert {artifact.type for artifact in part.artifacts} == {"run_table"}
    assert part.tags == ["regime:CrossEntropyLoss", "model:CifarResNet8", "data:Digits"]
    assert part.metrics["test/accuracy"].step_metric == "epoch"


def test_no_server_answer_keeps_an_automatic_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, silent_server: str
) -> None:
    monkeypatch.setattr(run, "INIT_TIMEOUT", 3.0)
    before = time.monotonic()
    with caplog.at_level(logging.WARNING):
        begun = _run(tmp_path / "run", WandbOptions())
    assert time.monotonic() - before < 20
    assert begun.settings.mode == "offline"
    assert "did not start the run" in caplog.text
    begun.log({"a": 1})
    (part,) = _parts(tmp_path / "run")
    assert part.summary["a"] == 1
    assert json.loads((tmp_path / "run" / IDENTITY_FILE).read_text()) == {"id": part.id, "name": "mine"}


def test_a_run_that_must_be_online_ends_when_no_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setattr(run, "INIT_TIMEOUT", 3.0)
    with pytest.raises(ConnectionError, match=r"did not start the run: .*`--wandb.mode offline`.*`wandb sync`"):
        _run(tmp_path / "run", WandbOptions(mode="online"))


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections and never says a word, with a key for it."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:  # closed: the test is over
                    return

        threading.Thread(target=take, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


def test_variables_of_wandb_are_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SWEEP_ID": "s1", "RUN_ID": "agent7", "TAGS": "night, mine", "JOB_TYPE": "probe"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger: Any = _logger(
        tmp_path, WandbOptions(mode="offline", tags=["mine"]), RunDescription("fit", ["regime:focal"])
    )
    asked = logger._wandb_init
    assert (asked["group"], asked["id"], asked["job_type"]) == ("sweep-s1", "agent7", "probe")
    assert asked["tags"] == ["regime:focal", "mine", "night"]
    monkeypatch.setenv("WANDB_TAGS", "regime:dial=-0.5")
    logger = _logger(tmp_path, WandbOptions(mode="offline"), RunDescription("fit", ["regime:dial", "data:Digits"]))
    assert logger._wandb_init["tags"] == ["data:Digits", "regime:dial=-0.5"]
    monkeypatch.setenv("WANDB_RUN_GROUP", "named")
    logger = _logger(tmp_path, WandbOptions(mode="offline"), RunDescription())
    assert logger._wandb_init["group"] == "named"
    logger = _logger(tmp_path, WandbOptions(mode="offline", group="g", job_type="j"), RunDescription())
    assert (logger._wandb_init["group"], logger._wandb_init["job_type"]) == ("g", "j")


def test_a_folder_keeps_who_its_run_is(tmp_path: Path) -> None:
    new = find_identity(tmp_path, "first")
    assert new.id != find_identity(tmp_path, "first").id
    keep_identity(tmp_path / "run", new)
    assert find_identity(tmp_path / "run", "second", goes_on=True) == new


def test_a_run_that_begins_anew_in_its_folder_is_another(tmp_path: Path) -> None:
    old = find_identity(tmp_path, "first")
    keep_identity(tmp_path, old)
    new = find_identity(tmp_path, "second")
    assert new.id != old.id
    assert new.name == "second"


def test_studies_are_counted_a_loader() -> None:
    root = Path("run")
    for place in ("ptq", "ptq-2", "ptq-3/clean", "ptq-3/dark", "elsewhere"):
        (root / place).mkdir(parents=True)
        (root / place / "records.json").touch()
    assert earlier_studies(root) == {"ptq/studies": 2, "ptq/clean/studies": 1, "ptq/dark/studies": 1}


def test_waiting_for_a_server_has_an_end(tmp_path: Path) -> None:
    logger: Any = _logger(tmp_path, WandbOptions(mode="online"), RunDescription())
    settings = logger._wandb_init["settings"]
    assert (settings.init_timeout, settings.finish_timeout) == (30, 600)  # the oldest wandb has no second one
    assert logger._wandb_init["resume"] == "allow"


def test_nothing_is_written_before_the_run_begins(tmp_path: Path) -> None:
    make_loggers("mine", tmp_path / "run", WandbOptions(mode="offline"), {})
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_begins_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    _run(tmp_path / "run", WandbOptions(mode="offline")).log({"a": 1})
    assert not (tmp_path / "run").exists()
    assert wandb.run is None


@pytest.mark.parametrize(
    ("model", "files", "tags"),
    [
        (
            {"loss": {"class_path": "qcal.losses.DualFocalLoss"}},
            [],
            ["regime:DualFocalLoss", "model:resnet18", "data:Digits"],
        ),
        ({"loss": None, "batch_transform": {"class_path": "a.Mixup"}}, [], ["regime:CrossEntropyLoss", "regime:Mixup"]),
        (
            {},
            ["configs/default.yaml", "regimes/focal.yaml", "mine/regimes/dial.yaml"],
            ["regime:dial", "model:resnet18"],
        ),
        ({}, ["focal.yaml"], ["regime:CrossEntropyLoss"]),
        ({}, [f"regimes/{'x' * 70}.yaml"], ["regime:" + "x" * 57]),
    ],
)
def test_tags_are_the_words_that_were_used(model: dict[str, Any], files: list[str], tags: list[str]) -> None:
    network = {"class_path": "qcal.models.torchvision_model", "init_args": {"name": "resnet18"}}
    config = {"model": {"model": network, **model}, "data": {"class_path": "qcal.data.Digits", "init_args": {}}}
    assert describing_tags(config, [Path(file) for file in files])[: len(tags)] == tags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wandb.tags", f"[{'x' * 65}]"], "`tags` must each have 1 to 64 characters"),
        (["--wandb.upload", "[weights]"], "weights"),
        (["--wandb.upload_limit_mb", "-1"], "must be a positive number of megabytes, got -1"),
    ],
)
def test_options_that_make_no_sense_are_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: int | str | None = main(["fit", *SMALL, *arguments])
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("qcal: error:") == 1
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
