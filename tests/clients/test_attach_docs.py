import re
from pathlib import Path
from typing import Any

import pytest

from qcal.robustness import read_record

DOCUMENT = Path(__file__).parents[2] / "docs" / "attach.md"


def test_the_examples_of_the_document_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    attachment = read_record("ptq").context["attachment"]
    assert attachment["network"] == "model"
    assert attachment["input"] == "batch['image']"
    assert attachment["found_by"] == "found by watching cross_entropy in the first batch"
    assert "\nmodel\n" in capsys.readouterr().out
