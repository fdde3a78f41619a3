import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qcal.report.find_records import Skipped, find_records, read_records
from qcal.report.write_report import write_report
from qcal.robustness import read_record
from tests.report.synthetic_runs import write_run, write_sweep

VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Page(HTMLParser):
    """Reads a page, checks that every element is closed, and keeps what it names and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.identifiers.append(value or "")
            if name in ("src", "xlink:href") or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            if name == "href" and tag == "a":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    strengths = (-0.5, 0.0, 0.5)
    folder = write_sweep(
        tmp_path_factory.mktemp("sweep"), seeds=3, strengths=strengths, num_images=300, with_logits=True
    )
    broken = write_run(folder / "broken")
    (broken / "ptq" / "records.json").write_text('{"schema_version": 1}')
    return folder


@pytest.fixture(scope="module")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    folders, passed_over = find_records([str(sweep)])
    found, unreadable = read_records(folders)
    write_report(found, [*passed_over, *unreadable], folder=folder)
    return folder


def test_the_page_is_one_file_that_loads_nothing(report: Path) -> None:
    text = (report / "index.html").read_text()
    page = _Page(text)
    assert [each for each in page.loaded if not each.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.identifiers) == len(set(page.identifiers))
    # What is linked beside it is there.
    assert [link for link in page.links if not link.startswith("#") and not (report / link).exists()] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.identifiers)
    assert len(text) < 2_500_000


def test_the_page_answers_in_three_sentences_and_has_every_section(report: Path) -> None:
    text = (report / "index.html").read_text()
    answer = re.search(r'aria-label="The answer">(.*?)</section>', text, re.DOTALL)
    assert answer is not None
    sentences = re.findall(r"<p>(.*?)</p>", answer[1])
    assert len(sentences) == 3
    assert all(sentence.count(". ") == 0 and sentence.endswith(".") for sentence in sentences)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "The dilemma",
        "What swapped, and what it cost",
        "Where along confidence the swaps lie",
        "Margins or noise",
        "Calibration",
        "What recalibration repairs",
        "Tables",
        "Runs",
        "Left out",
    ]
    assert 'class="missing"' not in text
    assert "has schema version 1, this qcal reads 2" in text


def test_every_run_is_a_point_that_says_its_name(report: Path) -> None:
    page, svg = (report / "index.html").read_text(), (report / "figures" / "dilemma.svg").read_text()
    for text in (page, svg):
        titles = re.findall(r"<title>(dial=[^<]*)</title>", text)
        assert len(titles) == 9 * 2  # runs, settings
        assert len({title.splitlines()[0] for title in titles}) == 9
    assert len(set(re.findall(r'class="run" data-run="([^"]*)"', page))) == 9


def test_every_picture_is_there_as_png_and_svg(report: Path) -> None:
    names = {path.stem for path in (report / "figures").glob("*.png")}
    assert names == {path.stem for path in (report / "figures").glob("*.svg")}
    assert names == {
        "dilemma",
        "swaps-cross-entropy",
        "swaps-dial-minus-0.5",
        "swaps-dial-plus-0.5",
        "swap-curves",
        "margins-or-noise",
        "reliability",
        "repair",
    }


def test_the_tidy_table_holds_the_records_figures_in_both_files(sweep: Path, report: Path) -> None:
    rows = pq.read_table(report / "runs.parquet").to_pylist()
    with (report / "runs.csv").open(newline="") as file:
        plain = list(csv.DictReader(file))
    assert len(rows) == len(plain) == 9 * 3  # float and two settings
    for row, text in zip(rows, plain, strict=True):
        assert [text[name] for name in text] == ["" if row[name] is None else str(row[name]) for name in text]
    (one,) = [row for row in rows if row["run"] == "dial=0.5,seed=1" and row["setting"] == "w4a4"]
    record = read_record(sweep / "dial=0.5,seed=1" / "ptq")
    assert record.float_scores is not None
    assert one["error_change"] == record.settings["w4a4"].error_change
    assert one["float_overconfidence"] == record.float_scores.overconfidence
    assert (one["regime"], one["seed"], one["run_seconds"], one["study_seconds"]) == ("dial +0.5", 1, 42.0, 0.5)
    assert one["weights_sha256"] == "0.5-1-True"


def test_a_second_report_takes_the_analyses_that_the_first_one_kept(sweep: Path, report: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (report / "cache").iterdir()}
    assert len(before) == 9 + 6  # analyses, and pairs with cross-entropy
    page = (report / "index.html").read_bytes()
    found, unreadable = read_records(find_records([str(sweep)])[0])
    write_report(found, unreadable, folder=report)
    assert {path.name: path.stat().st_mtime_ns for path in (report / "cache").iterdir()} == before
    assert (report / "index.html").read_bytes() == page
    # The folders of the runs are only read.
    assert not list(sweep.rglob("analysis.json"))


def test_records_without_logits_or_config_are_reported_as_far_as_they_go(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 0.0, 0, num_images=100, config=None)
    write_run(tmp_path / "runs" / "two & <more>", 0.5, 1, num_images=100, config=None)
    found, _ = read_records(find_records([str(tmp_path / "runs")])[0])
    page, answers = write_report(found, [Skipped("x", "y")], folder=tmp_path / "report")
    text = page.read_text()
    _Page(text)
    assert "two &amp; &lt;more&gt;" in text
    assert "<more>" not in text
    assert "2 of 2 records hold no config" in text
    assert "None of these runs has its logits" in text
    (answer,) = answers.values()
    assert all("cannot be told from these runs" in sentence for sentence in answer)


@pytest.mark.parametrize("file", ["logits.npz", "analysis.json"])
def test_a_file_cut_short_beside_a_record_is_named_and_not_fatal(file: str, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"seed{seed}", 0.0, seed, num_images=100, with_logits=True)
    path = tmp_path / "runs" / "seed1" / "ptq" / file
    whole = path.read_bytes() if path.exists() else b'{"probabilities": {"w4a4": '
    path.write_bytes(whole[: len(whole) // 2])
    found, _ = read_records(find_records([str(tmp_path / "runs")])[0])
    page, _ = write_report(found, folder=tmp_path / "report")
    text = page.read_text()
    assert ("seed1: not in pictures that need logits. logits.npz beside the record cannot be read" in text) == (
        file == "logits.npz"
    )
    assert "1 run of 100 images" in text if file == "logits.npz" else "2 runs of 100 images" in text


@pytest.mark.slow
def test_of_very_many_regimes_some_have_pictures_of_their_own(tmp_path: Path) -> None:
    for seed in range(30):
        write_run(tmp_path / "runs" / f"net{seed}", seed / 30 - 0.5, seed, num_images=60, config=None, with_logits=True)
    found, _ = read_records(find_records([str(tmp_path / "runs")])[0])
    page, _ = write_report(found, folder=tmp_path / "report")
    assert "Drawn for 24 of 30 regimes, evenly from under- to overconfident" in page.read_text()
    assert len(list((tmp_path / "report" / "figures").glob("swaps-*.png"))) == 24
    assert len(page.read_bytes()) < 5_000_000


def test_one_network_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "fit", num_images=100)
    write_run(tmp_path / "runs" / "tested again", num_images=100)
    found, _ = read_records(find_records([str(tmp_path / "runs")])[0])
    page, _ = write_report(found, folder=tmp_path / "report")
    assert "The weights and the images are those of fit, and one network counts once." in page.read_text()
    assert pq.read_table(tmp_path / "report" / "runs.parquet").num_rows == 3


def test_several_networks_have_a_chapter_each(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"small{seed}", 0.0, seed, num_images=100)
    write_run(tmp_path / "runs" / "large", 0.0, 0, num_images=120, with_logits=True)
    found, _ = read_records(find_records([str(tmp_path / "runs")])[0])
    page, answers = write_report(found, folder=tmp_path / "report")
    assert len(answers) == 2
    text = page.read_text()
    assert len(set(_Page(text).identifiers)) == len(_Page(text).identifiers)
    assert text.count('<section class="answer"') == 2
    assert {path.name for path in (tmp_path / "report" / "figures").glob("*dilemma.png")} == {
        "1-dilemma.png",
        "2-dilemma.png",
    }


def test_nothing_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`found` must hold at least one record"):
        write_report([], folder=tmp_path)
