import re
from pathlib import Path
from typing import Any

import pytest

from qcal.robustness import read_record

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = DOCS / "attach.md"


def _sections(text: str) -> dict[str, str]:
    """What stands under each heading, and before the first under an empty one."""
    before, *rest = text.split("\n## ")
    return {"": before} | {section.partition("\n")[0]: section for section in rest}


EXAMPLES = _sections((DOCS / "attach_examples.md").read_text())
NEEDS = {"hydra": "instantiated by Hydra", "timm": "network of timm"}


def _example(heading: str) -> Any:
    """Those that need packages of the oracle group run with them."""
    needed = [package for package, words in NEEDS.items() if words in heading]
    return pytest.param(heading, needed, marks=[pytest.mark.oracle] if needed else [])


def test_the_examples_of_the_document_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    attachment = read_record("ptq").context["attachment"]
    assert attachment["network"] == "model"
    assert attachment["input"] == "batch['image']"
    assert attachment["found_by"] == "found by watching cross_entropy in the first batch"
    assert "\nmodel\n" in capsys.readouterr().out


# Advice to the author of the small projects, who wants them small.
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`")
@pytest.mark.parametrize(("heading", "needed"), [_example(heading) for heading in EXAMPLES if heading])
def test_each_style_runs_and_prints_what_it_says(
    heading: str,
    needed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in needed:
        pytest.importorskip(package, reason=f"the example uses {package}")
    monkeypatch.chdir(tmp_path)
    for config in re.findall(r"```yaml\n(.*?)```", EXAMPLES[heading], flags=re.DOTALL):
        (name,) = re.findall(r"\A# (\S+)\n", config)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config)
    code = EXAMPLES[""] + ("" if heading != "Manual optimization" else EXAMPLES["A network in a module"])
    blocks = re.findall(r"```python\n(.*?)```", code + EXAMPLES[heading], flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, heading, "exec"), names)
    (expected,) = re.findall(r"print\(.*\)  # (.*)", EXAMPLES[heading])
    assert capsys.readouterr().out.splitlines()[-1] == expected
