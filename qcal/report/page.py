"""The page: one HTML file that needs nothing else, made of a report's answer, pictures and tables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

import qcal
from qcal.atomic import replacing
from qcal.plots import save_figure
from qcal.report.chapter_figures import ChapterFigures
from qcal.report.chapter_pictures import Picture, Section, chapter_pictures
from qcal.report.configs import compare_configs
from qcal.report.embed import add_titles, inline_png, inline_svg
from qcal.report.find_records import Skipped
from qcal.report.runs import Run
from qcal.report.tables import Table, chapter_tables, runs_table, settings_table

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
FIGURES = "figures"
_MOST_ROWS = 1000  # of every run at every setting; more are in the files
# Bytes. A page of 100 runs stays below 5 MB: the pictures that weigh most are embedded as PNG, the last not at all.
_HEAVY_SVG, _SVG_BUDGET, _BUDGET = 350_000, 1_600_000, 2_900_000
_POINTS = 72  # an inch
_TALL = 2.2  # height by width: more would be less than half as wide as a page


@dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
        picture: With heading and caption.
        markup: Of the picture itself; empty if it is only linked.
        file: Its PNG, seen from the page.
    """

    picture: Picture
    markup: Markup
    file: str

    @property
    def tall(self) -> bool:
        """Whether it is too tall for one page of paper."""
        width, height = self.picture.figure.get_size_inches()
        return bool(height > _TALL * width)


@dataclass(frozen=True)
class ShownSection:
    """A section on the page; see `Section`."""

    title: str
    pictures: list[Shown]
    missing: str
    note: str


@dataclass(frozen=True, eq=False)
class ShownChapter:
    """A chapter on the page."""

    figures: ChapterFigures
    identifier: str
    sections: list[ShownSection]
    tables: list[Table]


class _Budget:
    """How much of the page is taken by pictures."""

    def __init__(self) -> None:
        self.svg, self.all = 0, 0


def write_page(
    chapters: Sequence[ChapterFigures],
    runs: Sequence[Run],
    skipped: Sequence[Skipped],
    notes: Sequence[str],
    *,
    folder: Path,
    title: str,
) -> Path:
    """Save every picture, and write the page.

    Args:
        chapters: At least one.
        runs: All runs, in the order of the tables.
        skipped: What is not in the report.
        notes: What to know of the runs, in sentences.
        folder: Where to; made when missing.
        title: Of the page.

    Returns:
        `index.html`.

    Raises:
        OSError: The folder cannot be written.
    """
    numbers = {run.name: place for place, run in enumerate(runs)}
    budget, shown = _Budget(), []
    for place, figures in enumerate(chapters, start=1):
        before = f"{place}-" if len(chapters) > 1 else ""
        sections = chapter_pictures(figures, numbers=numbers)
        shown.append(
            ShownChapter(
                figures,
                f"chapter-{place}",
                [_show_section(section, before, folder, budget) for section in sections],
                chapter_tables(figures),
            )
        )
    every, configs = settings_table(runs), compare_configs(runs)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            chapters=shown,
            runs=runs,
            runs_table=runs_table(runs),
            settings_table=every if len(every.rows) <= _MOST_ROWS else None,
            shared=_yaml(configs.shared) if configs.shared else "",
            own=configs.own,
            without_config=configs.without,
            details=[_details(run, chapters) for run in runs],
            skipped=skipped,
            notes=notes,
            version=qcal.__version__,
        )
    )
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def _show_section(section: Section, before: str, folder: Path, budget: _Budget) -> ShownSection:
    pictures = [_show(picture, f"{before}{picture.name}", folder, budget) for picture in section.pictures]
    return ShownSection(section.title, pictures, "" if pictures else section.missing, section.note if pictures else "")


def _show(picture: Picture, name: str, folder: Path, budget: _Budget) -> Shown:
    """Save a picture, and embed it as well as the page's size allows."""
    png, vector = save_figure(picture.figure, folder / FIGURES, name)
    text = vector.read_text(encoding="utf-8")
    if picture.titles:
        text = add_titles(text, picture.titles)
        with replacing(vector) as temporary:
            temporary.write_text(text, encoding="utf-8")
    label = picture.caption.split(". ")[0]
    file = f"{FIGURES}/{png.name}"
    prefix = "p" + re.sub(r"[^A-Za-z0-9]+", "-", name)
    markup = inline_svg(text, prefix=prefix, label=label, runs=picture.runs)
    fits = len(markup) <= _HEAVY_SVG and budget.svg + len(markup) <= _SVG_BUDGET
    # The dilemma is the page's matter, and the only picture to hover over.
    if picture.titles or fits:
        budget.svg += len(markup)
    else:
        markup = inline_png(png, label=label, width=picture.figure.get_figwidth() * _POINTS)
    if not picture.titles and budget.all + len(markup) > _BUDGET:
        return Shown(picture, Markup(), file)
    budget.all += len(markup)
    return Shown(picture, Markup(markup), file)


def _details(run: Run, chapters: Sequence[ChapterFigures]) -> Mapping[str, Any]:  # Any: for the template
    """What is known of a run beside its figures."""
    analyses = next(each.analyses for each in chapters if run.name in each.analyses)
    analysis = analyses[run.name]
    shown = {key: value for key, value in run.context.items() if key not in ("config", "placement")}
    config = run.context.get("config")
    return {
        "run": run,
        "answers": {} if isinstance(analysis, str) else analysis["answers"],
        "no_analysis": analysis if isinstance(analysis, str) else "",
        "context": _yaml(shown),
        "config": _yaml(config) if config else "",
    }


def _yaml(value: Any) -> str:  # Any: plain JSON
    """As YAML, without what is null."""
    return str(yaml.safe_dump(_without_null(value), sort_keys=False, allow_unicode=True, width=100)).strip()


def _without_null(value: Any) -> Any:  # Any: plain JSON
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qcal.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment


def _prose(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
