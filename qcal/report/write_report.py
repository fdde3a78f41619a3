"""Records -> the files of a report."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qcal.report.chapter_figures import ChapterFigures, chapter_figures
from qcal.report.dilemma import Measure
from qcal.report.find_records import Found, Skipped
from qcal.report.page import write_page
from qcal.report.runs import Run, chapters, read_run
from qcal.report.tidy import write_tidy

__all__ = ["write_report"]

CACHE = "cache"


def write_report(
    found: Sequence[Found],
    skipped: Sequence[Skipped] = (),
    *,
    folder: Path,
    measure: Measure = "overconfidence",
    title: str = "Confidence and quantization",
) -> tuple[Path, dict[str, tuple[str, str, str]]]:
    """Write page, pictures and tidy table.

    Args:
        found: At least one record, under names that differ.
        skipped: What was left out already.
        folder: Where to; made when missing, files of an earlier report are replaced.
        measure: Of the float network, against which the error is held.
        title: Of the page.

    Returns:
        The page, and the answer of each chapter by its title.

    Raises:
        ValueError: There is no record.
        OSError: The folder cannot be written.
    """
    if not found:
        raise ValueError("`found` must hold at least one record, got none. Pass what `read_records` returns.")
    runs, repeated = _without_repeats([read_run(each) for each in found])
    told = [chapter_figures(chapter, cache=folder / CACHE, measure=measure) for chapter in chapters(runs)]
    ordered = [run for each in told for run in each.chapter.runs]
    write_tidy(ordered, folder)
    page = write_page(
        told, ordered, [*skipped, *repeated], [*_notes(ordered), *_unread(told)], folder=folder, title=title
    )
    return page, {each.chapter.title: each.answer for each in told}


def _without_repeats(runs: Sequence[Run]) -> tuple[list[Run], list[Skipped]]:
    """Leave out a network that was measured before on the same images: it would count as two seeds."""
    kept: list[Run] = []
    skipped = []
    for run in runs:
        weights = run.context.get("weights_sha256")
        twin = next(
            (
                other
                for other in kept
                if weights is not None
                and other.context.get("weights_sha256") == weights
                and (other.images, other.num_images) == (run.images, run.num_images)
                and set(run.settings) <= set(other.settings)
            ),
            None,
        )
        if twin is None:
            kept.append(run)
        else:
            reason = f"The weights and the images are those of {twin.name}, and one network counts once."
            skipped.append(Skipped(run.name, reason))
    return kept, skipped


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader has to know of the runs before the figures are believed."""
    notes = []
    ends = Counter(run.name.rpartition("/")[2] for run in runs)
    several = [name for name, count in ends.items() if count > 1]
    if several:
        notes.append(
            f"Several runs are called {', '.join(several)}; they are told apart by the folders above them. Rename one "
            "folder to have shorter names."
        )
    for what in ("qcal", "torch"):
        versions = sorted({str(run.context.get("versions", {}).get(what)) for run in runs})
        if len(versions) > 1:
            notes.append(f"The runs were made with different versions of {what}: {', '.join(versions)}.")
    no_config = [run.name for run in runs if run.recipe is None]
    if no_config:
        notes.append(
            f"{len(no_config)} of {len(runs)} records hold no config, so each of these runs is named by its folder, "
            "counts as "
            f"a regime of its own and is paired with none: {_some(no_config)}."
        )
    recipes = {(run.model, run.data, run.recipe) for run in runs if run.recipe is not None}
    models = {(run.model, run.data) for run in runs if run.recipe is not None}
    if len(recipes) > len(models):
        notes.append(
            "Some runs of one network and data set differ in more than regime and seed (the recipe in the tidy "
            "table): they "
            "are drawn together, and paired only with runs of the same recipe."
        )
    failed = [run.name for run in runs if run.errors]
    if failed:
        notes.append(f"Something could not be measured in {_some(failed)}; the table of runs says what.")
    return notes


def _unread(told: Sequence[ChapterFigures]) -> list[str]:
    missing = {name: why for each in told for name, why in each.missing.items()}
    if not missing:
        return []
    why = " ".join(dict.fromkeys(missing.values()))
    return [f"{_some(list(missing))}: not in pictures that need logits. {why}"]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
