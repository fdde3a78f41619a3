"""The command as a user calls it: mistakes, the packaged sweeps, and one real sweep."""

import json
import subprocess
import sys
import time
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from qcal.cli import main
from qcal.cli.arguments import packaged_sweeps
from qcal.cli.run import RunOptions, choose_run_folder
from qcal.robustness import read_record
from qcal.sweep.expansion import PlannedRun, expand
from qcal.sweep.resolution import Run, check_data, resolve
from qcal.sweep.sweep_file import read_sweep
from qcal.usage import UsageError
from tests.support.wandb_file import read_run

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = ROOT / "configs" / "sweeps"
COUNTS = {"sweeps/quickstart.yaml": 15, "sweeps/dilemma.yaml": 75, "sweeps/cifar100.yaml": 54}


@cache
def resolved(name: str) -> tuple[Run, ...]:
    sweep = read_sweep(name)
    return resolve(expand(sweep), group=sweep.name)


def test_the_packaged_sweeps_are_those_tested_here() -> None:
    assert sorted(COUNTS) == packaged_sweeps()
    assert sorted(path.name for path in SWEEPS.iterdir()) == sorted(
        [*(Path(name).name for name in COUNTS), "dilemma.wandb.yaml"]
    )


@pytest.mark.parametrize("name", COUNTS)
def test_every_run_of_a_packaged_sweep_parses_and_differs_from_all_others(name: str) -> None:
    runs = resolved(name)
    assert len(runs) == COUNTS[name]
    assert len({run.name for run in runs}) == len({run.config_hash for run in runs}) == len(runs)
    for run in runs:
        assert f"seed={run.config['seed_everything']}" in run.name
        dial, _, strength = run.name.partition("dial=")[2].partition(",")[0].partition(",")
        if dial:
            assert run.config["model"]["loss"]["init_args"] == {"strength": float(dial)}, strength


@pytest.mark.parametrize("name", [*COUNTS, "sweeps/dilemma.wandb.yaml"])
def test_a_sweep_begins_with_what_it_is_and_its_command(name: str) -> None:
    head = (SWEEPS.parent / name).read_text().partition("\n" + ("program" if "wandb" in name else "bases"))[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"configs/{name}" in head


def test_the_large_sweep_is_the_papers_question_at_its_size() -> None:
    runs = resolved("sweeps/cifar100.yaml")
    assert {run.config["model"]["model"]["init_args"]["depth"] for run in runs} == {20, 56}
    assert {run.max_epochs for run in runs} == {160}
    assert {run.config["ptq"]["placement"] for run in runs} == {"xia2021"}
    assert {run.config["data"]["class_path"] for run in runs} == {"qcal.data.CIFAR100"}
    assert "Not run at full size here" in (SWEEPS / "cifar100.yaml").read_text()


def test_the_sweep_of_weights_and_biases_is_the_same_study(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load((SWEEPS / "dilemma.wandb.yaml").read_text())
    assert sweep["program"] == "train.py"
    macro, python, program, *fixed, arguments = sweep["command"]
    assert (macro, python, program, arguments) == ("${env}", "python", "${program}", "${args}")
    names = list(sweep["parameters"])
    planned = []
    for number, values in enumerate(product(*(sweep["parameters"][name]["values"] for name in names))):
        # In either order: the agent promises none. Written by its own code.
        pairs = list(zip(names, values, strict=True))[:: 1 if number % 2 else -1]
        given = create_sweep_command_args({"args": {name: {"value": value} for name, value in pairs}})["args"]
        assert fixed[0] == "fit"
        planned.append(PlannedRun(f"r{number}", "default", "", (*fixed[1:], *given)))
    hashes = [run.config_hash for run in resolve(planned, group="dilemma")]
    assert len(set(hashes)) == len(hashes) == 75
    assert set(hashes) == {run.config_hash for run in resolved("sweeps/dilemma.yaml")}


def test_runs_are_grouped_and_tagged_unless_the_user_did_it(tmp_path: Path) -> None:
    (run, *_) = resolved("sweeps/quickstart.yaml")
    assert "--wandb.group=quickstart" in run.arguments
    (tags,) = [part.partition("=")[2] for part in run.arguments if part.startswith("--wandb.tags")]
    assert json.loads(tags) == ["default", "regime:dial=-1", "model:CifarResNet", "data:Digits"]
    # With them it parses, and they change nothing else.
    (again,) = resolve([PlannedRun(run.name, run.base, "", run.arguments)], group="other")
    assert again == run
    mine = PlannedRun("a", "default", "", ("-c", "default.yaml", "--wandb.group=mine", "--wandb.tags=[x]"))
    (own,) = resolve([mine], group="sweep")
    assert own.arguments == mine.arguments


def test_where_a_run_goes_does_not_change_its_hash() -> None:
    base = ("-c", "default.yaml")
    plain, placed, other = resolve(
        [
            PlannedRun("a", "b", "", base),
            PlannedRun("b", "b", "", (*base, "--wandb.mode=disabled", "--run.dir=x")),
            PlannedRun("c", "b", "", (*base, "--seed_everything=1")),
        ],
        group="g",
    )
    assert plain.config_hash == placed.config_hash != other.config_hash


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    try:
        code: int | str | None = main(["sweep", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overrides: {trainer.max_epoch: 3}", "Did you mean `--trainer.max_epochs`?"),
        ("overrides: {model.loss.init_args.gamma: -1}\nregimes: [focal]", "`gamma` must be a number in [0, inf)"),
        ("overrides: {ptq.settings: [w1a8]}", "`weight_bits` must be an integer in [2, 8]"),
        ("overrides: {model.weights: nowhere.pt}", "nowhere.pt"),
        ("overrides: {data: CIFAR100, data.root: nowhere, data.download: false}", "'nowhere/cifar-100-python'"),
        ("overrides: {model.model.init_args.num_classes: 5}", "10 classes, got 5"),
    ],
)
def test_a_run_that_would_be_refused_is_named_before_any_is_started(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(f"bases: [default.yaml]\nseeds: [0]\n{text}\n")
    code, error = call(["s.yaml"], capsys)
    assert code == 2
    assert "qcal: error: The run 'default," in error
    assert "would be refused, so none was started" in error
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "There is no sweep 'nowhere.yaml'"),
        ([], "the following arguments are required: file. See `qcal sweep --help`."),
        (["sweeps/quickstart.yaml", "--only", "dial=*"], "`--only dial=*` fits none of the 15 runs, which are called"),
        (["sweeps/quickstart.yaml", "-c", "nowhere.yaml"], "There is no config 'nowhere.yaml'"),
        (["sweeps/quickstart.yaml", "--job", "2"], "unrecognized arguments: --job 2"),
        (["sweeps/quickstart.yaml", "--jobs", "0"], "`--jobs` must be an integer of at least 1, got 0"),
        (["sweeps/quickstart.yaml", "--devices", "7"], "`--devices` must be"),
        (["sweeps/quickstart.yaml", "--gpus-per-run", "0"], "`--gpus-per-run` is not for `--engine local`. Add `--eng"),
        (["sweeps/quickstart.yaml", "--engine", "ray", "--jobs", "2"], "`--jobs` is not for `--engine ray`. Leave it"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = call(arguments, capsys)
    assert code == 2
    assert message in error
    assert error.count("qcal: error:") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_sweep_writes_first_makes_no_run_of_a_folder(tmp_path: Path) -> None:
    for name in ("run.json", "run.log", ".run-x1.json"):
        (tmp_path / name).write_text("{}")
    assert choose_run_folder(RunOptions(dir=str(tmp_path)), "", resumed=False)[1] == tmp_path
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ValueError, match="holds a run already"):
        choose_run_folder(RunOptions(dir=str(tmp_path)), "", resumed=False)


def test_a_misspelt_sweep_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweeep"]) == 2
    assert "Did you mean 'sweep'?" in capsys.readouterr().err


def test_a_dry_run_prints_command_lines_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "sweeps/quickstart.yaml", "--dry-run", "--set", "trainer.max_epochs=1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("start")]
    assert len(lines) == 15
    assert all("qcal fit -c configs/default.yaml" in line and "--trainer.max_epochs=1" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_the_large_sweep_reads_npz_files_and_can_be_run_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["sweeps/cifar100.yaml", "-c", "data/cifar100_npz.yaml", "--set", "data.init_args.root=there"]
    assert main(["sweep", *arguments, "--only", "resnet56,dial=*,seed=0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Checking 5 of 54 runs" in said
    lines = [line for line in said.splitlines() if line.startswith("start")]
    assert len(lines) == 5
    assert all("-c data/cifar100_npz.yaml -c configs/regimes/dial.yaml" in line for line in lines)
    assert all("data:NpzImages" in line and "--data.init_args.root=there" in line for line in lines)


def test_each_pair_of_network_and_data_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr("qcal.tasks.check_fit", lambda model, data, stage: checked.append((data.root, stage)))
    arguments = ("-c", "cifar100_resnet20.yaml")
    planned = [
        PlannedRun(f"{root}{seed}", "b", "", (*arguments, f"--data.root={root}", f"--seed_everything={seed}"))
        for seed in (0, 1)
        for root in ("here", "there")
    ]
    check_data(resolve(planned, group="g"))
    assert checked == [(Path("here"), "fit"), (Path("there"), "fit")]


def test_a_data_set_that_cannot_be_downloaded_is_told_before_any_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:  # Any: the data module
        raise ConnectionError("CIFAR100 must be downloaded from https://example.org, which failed.")

    monkeypatch.setattr("qcal.data.CIFAR100.prepare_data", fail)
    runs = resolve([PlannedRun("a", "b", "", ("-c", "cifar100_resnet20.yaml"))], group="g")
    with pytest.raises(UsageError, match=r"'a' would be refused, so none was started\. CIFAR100 must be downloaded"):
        check_data(runs)


def test_ctrl_c_before_the_first_run_says_that_there_was_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*args: Any, **kwargs: Any) -> None:  # Any: the arguments of `resolve`
        raise KeyboardInterrupt

    monkeypatch.setattr("qcal.sweep.command.resolve", press)
    assert call(["sweeps/quickstart.yaml"], capsys) == (130, "Stopped before any run was started.\n")


@pytest.mark.slow
def test_a_real_sweep_trains_and_a_second_one_skips(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "bases: [configs/default.yaml]\nregimes: [{dial: [-1, 1]}]\nseeds: [0]\noverrides: {trainer.max_epochs: 1}\n"
    )
    arguments = ["sweep", str(tmp_path / "tiny.yaml"), "--dir", str(tmp_path / "runs"), "--jobs", "2"]
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "--set", "wandb.mode=offline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = ["default,dial=-1,seed=0", "default,dial=1,seed=0"]
    under, over = (read_record(tmp_path / "runs" / name / "ptq") for name in names)
    assert under.context["config"]["model"]["loss"]["init_args"] == {"strength": -1.0}
    assert under.float_scores is not None
    assert over.float_scores is not None
    assert under.float_scores.mean_confidence < over.float_scores.mean_confidence
    run = read_run(tmp_path / "runs" / names[0])
    assert run.config["wandb"]["group"] == "tiny"
    states = [(tmp_path / "runs" / name / "run.json").read_bytes() for name in names]
    assert [json.loads(state)["status"] for state in states] == ["finished", "finished"]

    start = time.monotonic()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("skipped") == 2
    assert "2 of 2 runs are finished" in again.stdout
    assert [(tmp_path / "runs" / name / "run.json").read_bytes() for name in names] == states
    assert time.monotonic() - start < 120
