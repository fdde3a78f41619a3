import io
from pathlib import Path

import torch
from rich.console import Console

from qcal.report.console import StudyProgress, print_record, settings_table
from qcal.robustness import Logits, Record, Study, build_record


def _record() -> Record:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 4, generator=generator)
    quantized = {
        "w8a8-mse-full-out": logits,
        "w2a8-mse-full-out": logits + 5 * torch.randn(200, 4, generator=generator),
    }
    return build_record(Study(Logits(torch.arange(200) % 4, logits, quantized)))


def test_the_table_fits_eighty_columns_and_cuts_no_figure() -> None:
    record, page = _record(), io.StringIO()
    Console(file=page, width=80).print(settings_table(record))
    text = page.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    harmed = record.settings["w2a8-mse-full-out"]
    assert f"{100 * harmed.swap_rate:.2f}" in text
    assert f"{100 * harmed.error_change:+.2f}" in text
    assert "200 images" in text


def test_a_long_setting_is_folded_and_cuts_no_figure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 4, generator=generator)
    name = "w4a8-mse-keep=backbone.stage1.*+backbone.stage4.*-head.classifier:w8a8"
    study = Study(Logits(torch.arange(200) % 4, logits, {name: logits.flip(0)}))
    record, page = build_record(study), io.StringIO()
    Console(file=page, width=80).print(settings_table(record))
    assert max(map(len, page.getvalue().splitlines())) <= 80
    assert "…" not in page.getvalue()
    assert name in "".join(line.split(" ")[0] for line in page.getvalue().splitlines())
    assert f"{100 * record.settings[name].swap_rate:.2f}" in page.getvalue()


def test_undefined_damage_is_a_dash() -> None:
    page = io.StringIO()
    Console(file=page, width=80).print(settings_table(_record()))
    (line,) = [line for line in page.getvalue().splitlines() if "w8a8" in line]
    assert " - " in line


def test_the_places_are_printed_whole() -> None:

    page = io.StringIO()
    folder = Path("a-long-name-of-a-run" * 6)
    print_record(_record(), folder, console=Console(file=page, width=80))
    assert str(folder / "records.json") in page.getvalue()


def test_progress_shows_each_stage_and_its_end() -> None:
    page = io.StringIO()
    with StudyProgress(console=Console(file=page, force_terminal=True, width=80)) as progress:
        progress("observe", 1, 2)
        progress("observe", 2, 2)
        progress("evaluate", 3, 0)
    assert "Estimating activation ranges" in page.getvalue()
    assert "2/2" in page.getvalue()
    assert "Running the grid" in page.getvalue()


def test_switched_off_progress_shows_nothing() -> None:
    page = io.StringIO()
    with StudyProgress(enabled=False, console=Console(file=page, force_terminal=True)) as progress:
        progress("observe", 1, 2)
    assert page.getvalue() == ""
