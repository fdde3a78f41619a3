"""Sweep files: what they say, and what is said of those that are wrong."""

import re
from pathlib import Path

import pytest

from qcal.sweep.expansion import expand
from qcal.sweep.sweep_file import Choice, read_sweep
from qcal.usage import UsageError

SMALL = "bases: [default.yaml]\nseeds: [0]\n"


def sweep_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_a_sweep_is_named_after_its_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert read_sweep(sweep_file(tmp_path, SMALL)).name == "study"
    assert read_sweep(sweep_file(tmp_path, f"name: other\n{SMALL}")).name == "other"


def test_every_part_of_a_file_becomes_arguments(tmp_path: Path) -> None:
    text = """
bases:
  small: configs/default.yaml
  deep:
    configs: [configs/default.yaml, configs/quantization/weights_only.yaml]
    overrides: {model.model.init_args.depth: 20}
regimes: [focal]
grid:
  data.batch_size: [32, 64]
  ptq.settings: {weights: [w4afp], both: [w4a4]}
seeds: [3, 1]
overrides: {trainer.max_epochs: 2, trainer.precision: null}
"""
    sweep = read_sweep(sweep_file(tmp_path, text), overrides=["trainer.max_epochs=1"])
    assert sweep.bases == (
        Choice("small", ("-c", "configs/default.yaml")),
        Choice(
            "deep",
            (
                *("-c", "configs/default.yaml", "-c", "configs/quantization/weights_only.yaml"),
                "--model.model.init_args.depth=20",
            ),
        ),
    )
    assert sweep.regimes == (Choice("focal", ("-c", "configs/regimes/focal.yaml")),)
    assert sweep.grid == (
        (Choice("batch_size=32", ("--data.batch_size=32",)), Choice("batch_size=64", ("--data.batch_size=64",))),
        (
            Choice("settings=weights", ('--ptq.settings=["w4afp"]',)),
            Choice("settings=both", ('--ptq.settings=["w4a4"]',)),
        ),
    )
    assert sweep.seeds == (3, 1)
    # The command line's last, so that it wins.
    assert sweep.overrides == ("--trainer.max_epochs=2", "--trainer.precision=null", "--trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [0]\nbases: [default.yaml]", r"unknown key `seed`\. Keys: name, bases, .*Did you mean 'seeds'\?"),
        ("bases: [default.yaml]", r"must say its `seeds`.*Add for example `seeds: \[0, 1, 2\]`"),
        ("seeds: [0]", r"must say its `bases`"),
        ("bases: []\nseeds: [0]", r"describes no run, because `bases` is empty"),
        ("bases: [default.yaml]\nseeds: []", r"describes no run, because `seeds` is empty. List at least one value\."),
        (f"{SMALL}regimes: []", r"`regimes` is empty. List at least one value, or leave the key out"),
        (f"{SMALL}grid: {{data.batch_size: []}}", r"no run, because `data.batch_size` under `grid` is empty"),
        (f"{SMALL}grid: {{data.batch_size: 3}}", r"must be a list of values, got 3"),
        (f"{SMALL}bases: [default.yaml]", r"has `bases` twice in one place"),
        (f"{SMALL}overrides: {{a: 1, a: 2}}", r"has `a` twice in one place"),
        (f"{SMALL}overrides: [a]", r"`overrides` in .* must be dotted keys with values"),
        (f"{SMALL}overrides: {{run.dir: here}}", r"`run.dir` cannot be overridden.*the folder is `--dir`"),
        (f"{SMALL}overrides: {{seed_everything: 3}}", r"`seed_everything` cannot be overridden.*`seeds`"),
        (f"{SMALL}name: ../up", r"The sweep's name must be letters, .*got '\.\./up'"),
        ("bases: [defualt.yaml]\nseeds: [0]", r"There is no config 'defualt.yaml'.*Did you mean 'default.yaml'\?"),
        ("bases: [[]]\nseeds: [0]", r"must be a config, a list of configs"),
        ("bases: {a: {config: default.yaml}}\nseeds: [0]", r"The base `a` in .* must be a config, .*`configs:`"),
        ("bases: [default.yaml]\nseeds: [0, x]", r"`seeds` in .* must be integers of at least 0, got 'x'"),
        ("bases: [default.yaml]\nseeds: [-1]", r"must be integers of at least 0, got -1"),
        (f"{SMALL}regimes: [focl]", r"There is no regime 'focl'.*brier, .*Did you mean 'focal'\?"),
        ("- a", r"must hold keys .*got list"),
        ("a: [", r"is not YAML: .*Mend the line"),
        ("program: train.py\nmethod: grid", r"is a sweep of Weights & Biases. Start it with `wandb sweep"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong_and_how_to_go_on(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        read_sweep(sweep_file(tmp_path, text))


def test_a_file_that_is_not_there_is_told_with_those_that_come_along() -> None:
    with pytest.raises(UsageError, match=r"no sweep 'sweeps/dilema.yaml'.*Did you mean 'sweeps/dilemma.yaml'\?"):
        read_sweep("sweeps/dilema.yaml")


def test_the_example_of_the_docs_is_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "mine.yaml").write_text("model: {loss: {class_path: torch.nn.CrossEntropyLoss}}")
    runs = expand(read_sweep(sweep_file(tmp_path, example[1])))
    assert len(runs) == 2 * (1 + 3 + 2 + 1) * 2 * 3
    assert runs[0].name == "small,label_smoothing,batch_size=64,seed=0"


def test_a_config_for_every_run_lies_over_each_base_and_under_the_regime(tmp_path: Path) -> None:
    text = "bases: {a: default.yaml, b: {configs: default.yaml, overrides: {x: 1}}}\nregimes: [focal]\nseeds: [0]\n"
    over = "configs/data/cifar100_npz.yaml"
    runs = expand(read_sweep(sweep_file(tmp_path, text), configs=[over]))
    expected = ("-c", "default.yaml", "-c", over, "-c", "configs/regimes/focal.yaml")
    assert [run.arguments[:6] for run in runs] == [expected, expected]
    assert [run.arguments[6:] for run in runs] == [("--seed_everything=0",), ("--x=1", "--seed_everything=0")]
    with pytest.raises(UsageError, match=r"no config 'nowhere.yaml'"):
        read_sweep(sweep_file(tmp_path, text), configs=["nowhere.yaml"])


@pytest.mark.parametrize("text", ["trainer.max_epochs", "=3", ""])
def test_an_override_on_the_command_line_needs_key_and_value(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`--set` takes KEY=VALUE"):
        read_sweep(sweep_file(tmp_path, SMALL), overrides=[text])
