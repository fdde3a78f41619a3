"""The page in a real browser: what the script does, what stays without it, and that nothing complains."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from qcal.report.find_records import find_records, read_records
from qcal.report.write_report import write_report
from tests.report.synthetic_runs import write_sweep

pytestmark = pytest.mark.slow

# What a reader would do, and what is then to be seen; written where `--dump-dom` shows it.
_PROBE = """<script>{
const column = (table, place) => [...table.tBodies[0].rows].map((row) => row.cells[place].dataset.key);
const table = document.querySelector("#runs table"), heads = [...table.tHead.rows[0].cells];
const place = heads.findIndex((head) => head.textContent.startsWith("overconfidence"));
const found = {before: column(table, place)};
heads[place].querySelector("button").click();
found.up = column(table, place); found.ariaUp = heads[place].getAttribute("aria-sort");
heads[place].querySelector("button").click();
found.down = column(table, place); found.ariaDown = heads[place].getAttribute("aria-sort");
heads[0].querySelector("button").click();
found.names = column(table, 0); found.ariaLeft = heads[place].getAttribute("aria-sort");
const point = document.querySelector("g.run"), hover = document.querySelector("#hover");
found.hiddenBefore = hover.hidden;
point.dispatchEvent(new MouseEvent("mouseenter", {clientX: 60, clientY: 60}));
found.run = point.dataset.run; found.hover = hover.textContent; found.hidden = hover.hidden;
found.litRows = [...document.querySelectorAll("tr.lit")].map((row) => row.dataset.run);
found.litPoints = document.querySelectorAll("g.run.lit").length;
point.dispatchEvent(new MouseEvent("mouseleave"));
found.litAfter = document.querySelectorAll(".lit").length; found.hiddenAfter = hover.hidden;
found.scrolls = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.found = JSON.stringify(found);
}</script></body>"""


# What is printed, seen where the rules for paper hold on the screen too.
_PAPER = """<script>{
const seen = (selector) => document.querySelector(selector).checkVisibility();
const found = {};
for (const each of ["#settings td", "#settings caption", "#configs td", ".paper", "details summary", "details.screen"])
  found[each] = seen(each);
const isOpen = () => document.querySelector("#settings").closest("details").open;
found.open = [isOpen()];
dispatchEvent(new Event("beforeprint")); found.open.push(isOpen());
found.runs = document.querySelectorAll("details.screen[open]").length;
dispatchEvent(new Event("afterprint")); found.open.push(isOpen());
document.body.dataset.found = JSON.stringify(found);
}</script></body>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser to look at the page with: none of {', '.join(names)} is installed")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    sweep = write_sweep(folder / "sweep", seeds=3, strengths=(-0.5, 0.0, 0.5), num_images=200, with_logits=True)
    found, _ = read_records(find_records([str(sweep)])[0])
    path, _ = write_report(found, folder=folder / "report")
    return path


def _browse(chromium: str, page: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser prints, and what pages logged on its console."""
    profile = page.parent / "profile"
    common = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run(
        [chromium, *common, "--virtual-time-budget=4000", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", done.stderr)


def _probe(chromium: str, page: Path, *options: str, probe: str = _PROBE) -> dict[str, Any]:
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("</body>", probe))
    text, console = _browse(chromium, probed, "--dump-dom", *options)
    assert console == []
    found = re.search(r'<body[^>]* data-found="([^"]*)"', text)
    assert found is not None
    result: dict[str, Any] = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
    return result


def test_the_console_would_tell_of_an_error(chromium: str, page: Path) -> None:
    broken = page.with_name("broken.html")
    broken.write_text("<!DOCTYPE html><script>nowhere.at.all;</script>")
    _, console = _browse(chromium, broken, "--dump-dom")
    assert any("nowhere is not defined" in line for line in console)


def test_tables_are_sorted_and_runs_light_up(chromium: str, page: Path) -> None:
    found = _probe(chromium, page, "--window-size=1280,900")
    numbers = {name: [float(text) for text in found[name]] for name in ("before", "up", "down")}
    assert len(numbers["before"]) == 9
    assert numbers["up"] == sorted(numbers["before"])
    assert numbers["down"] == sorted(numbers["before"], reverse=True)
    assert (found["ariaUp"], found["ariaDown"], found["ariaLeft"]) == ("ascending", "descending", None)
    assert len(found["names"]) == 9
    assert found["hiddenBefore"]
    assert not found["hidden"]
    assert found["hover"].startswith(found["run"] + "\n")
    assert set(found["litRows"]) == {found["run"]}
    assert found["litPoints"] == 2  # one panel a setting
    assert found["litAfter"] == 0
    assert found["hiddenAfter"]


@pytest.mark.parametrize("width", [500, 1280])
def test_only_pictures_and_tables_scroll_sideways(width: int, chromium: str, page: Path) -> None:
    assert _probe(chromium, page, f"--window-size={width},900")["scrolls"] <= 0


def test_without_scripts_everything_can_be_read(chromium: str, page: Path) -> None:
    without = page.with_name("without.html")
    forbidden = """<head><meta http-equiv="Content-Security-Policy" content="script-src 'none'">"""
    without.write_text(page.read_text().replace("<head>", forbidden))
    text, console = _browse(chromium, without, "--dump-dom")
    assert len(console) == 1  # that of the script not being run
    assert "<button" not in text
    assert 'id="hover"' not in text
    assert text.count("<title>dial=") == 9 * 2
    assert text.count('class="picture"') >= 8


def test_what_is_closed_on_the_screen_is_printed_without_a_script_and_by_one(chromium: str, page: Path) -> None:
    found = _probe(chromium, page, probe=_PAPER)
    assert [found[each] for each in ("#settings td", "#configs td", ".paper", "details summary")] == [
        *(False, False, False, True)
    ]
    # A browser that does not know `::details-content` is told by the script, and told back.
    assert found["open"] == [False, True, False]
    assert found["runs"] == 0
    paper = page.with_name("paper.html")
    paper.write_text(
        re.sub("<script>.*?</script>", "", page.read_text().replace("@media print", "@media all"), flags=re.S)
    )
    found = _probe(chromium, paper, probe=_PAPER)
    assert [found[each] for each in ("#settings td", "#settings caption", "#configs td", ".paper")] == 4 * [True]
    assert [found[each] for each in ("details summary", "details.screen")] == 2 * [False]
    assert found["open"] == 3 * [False]


def test_it_is_drawn_on_screen_and_on_paper(chromium: str, page: Path, tmp_path: Path) -> None:
    _browse(chromium, page, "--window-size=1280,2000", f"--screenshot={tmp_path / 'screen.png'}", "--hide-scrollbars")
    screen = matplotlib.image.imread(tmp_path / "screen.png")
    assert screen.shape[:2] == (2000, 1280)
    dark = (screen[..., :3].mean(axis=2) < 0.5).mean(axis=1)
    assert 0.005 < dark.mean() < 0.3
    # Something stands in every fifth of the page.
    assert all(part.max() > 0.01 for part in np.array_split(dark, 5))
    _browse(chromium, page, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    paper = (tmp_path / "page.pdf").read_bytes()
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 3
