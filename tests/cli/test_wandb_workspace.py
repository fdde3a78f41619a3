"""The panel layout shows what runs log, and becomes a workspace where the package for it is installed."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from qcal.cli import main as train
from qcal.cli.wandb_workspace import build_workspace, describe, lay_out, main
from tests.cli.test_entry import SMALL
from tests.support.wandb_file import read_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; the run in it is offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    yield tmp_path
    wandb.finish()
    wandb.teardown()


def test_every_panel_shows_what_a_run_logs_on_the_axis_it_has(folder: Path) -> None:
    more = ["--trainer.max_epochs", "2", "--ptq.every_n_epochs", "1", "--confidence.diagram_every_n_epochs", "1"]
    assert train(["fit", *SMALL, *more, "--run.dir", "run"]) == 0
    wandb.finish()
    run = read_run(folder / "run")
    logged = {key for row in run.history for key in row}
    for panel in (panel for section in lay_out(["w8a8", "w3a8"]) for panel in section.panels):
        for key in panel.keys:
            assert key in logged, panel
            if panel.kind == "lines":
                assert run.metrics[key].step_metric == panel.x, panel
                assert any(key in row and panel.x in row for row in run.history)
            elif panel.kind in ("scatter", "bars"):
                assert isinstance(run.summary[key], float), panel
            else:
                kinds = {"pictures": "image-file", "table": "table-file"}
                assert run.summary[key]["_type"] == kinds[panel.kind], panel
        if panel.kind == "scatter":
            assert isinstance(run.summary[panel.x], float), panel


def test_the_layout_is_printed_without_a_network_or_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print", "--settings", "w4a8", "--prefix", "ptq/clean"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == describe(lay_out(["w4a8"], "ptq/clean"))
    assert "ptq/clean/w4a8/error_change over ptq/clean/float/overconfidence" in printed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> Any:  # Any: never returns
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["--entity", "me"]) == 2
    error = capsys.readouterr().err
    assert "pip install wandb-workspaces" in error
    assert "--print" in error


def test_an_entity_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "`--entity` must name a user or a team, got none." in capsys.readouterr().err


def test_a_layout_without_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="must name at least one setting, got none"):
        lay_out([])


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what wandb-workspaces imports
def test_the_public_package_takes_every_panel() -> None:
    pytest.importorskip("wandb_workspaces", reason="it makes the workspace")
    sections = lay_out(["w8a8", "w4a8"])
    workspace = build_workspace("me", "qcal", "mine", sections)
    sent = workspace._to_model().model_dump(mode="json", by_alias=True)["spec"]["section"]["panelBankConfig"]
    made = [section for section in sent["sections"] if section["name"] in {each.name for each in sections}]
    assert [len(section["panels"]) for section in made] == [len(section.panels) for section in sections]
    text = str(made)
    for section in sections:
        for panel in section.panels:
            assert all(key in text for key in (*panel.keys, panel.x))
