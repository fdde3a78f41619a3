"""Find the records that a report is to be made of: folders, globs, sweeps; and say what was passed over, and why."""

import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcal.robustness import Record, read_record
from qcal.usage import UsageError

__all__ = ["Found", "Skipped", "find_records", "read_records"]

RECORD = "records.json"
RUN_STATE = "run.json"
SWEEP_STATE = "sweep.json"
REPLACED = "kept"
_STUDY = re.compile(r"ptq(?:-(?P<number>\d+))?")


@dataclass(frozen=True)
class Skipped:
    """What is not in the report.

    Attributes:
        name: Folder or file.
        reason: Why, and how to go on.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A record and where it was.

    Attributes:
        name: Of the run, told from all others: its folder's name, with as many parents as that takes.
        folder: Holds `records.json`.
        run_folder: The run's own: the folder above `ptq`, or the same.
        record: What was read.
    """

    name: str
    folder: Path
    run_folder: Path
    record: Record


def find_records(places: Sequence[str]) -> tuple[list[Path], list[Skipped]]:
    """The folders with a record at or below some places.

    Of several studies of one run (`ptq`, `ptq-2`, ...) below a place the last is taken, and runs that a sweep has
    replaced (`kept`) are not. A folder that is named itself is always taken.

    Args:
        places: Folders, files `records.json`, or globs.

    Returns:
        The folders, each once, sorted within each place; and what was passed over.

    Raises:
        UsageError: A place does not exist, or there is no record at any.
    """
    folders: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for place in places:
        for path in _expand(place):
            found, passed_over = _below(path)
            folders |= dict.fromkeys(found)
            skipped += passed_over
    if not folders:
        looked = ", ".join(map(str, places))
        told = "".join(f"\n  {each.name}: {each.reason}" for each in skipped)
        raise UsageError(
            f"There is no record in {looked}. A run leaves `ptq/{RECORD}` in its folder: pass run folders, a sweep's "
            f"folder or a glob such as 'runs/*'.{told}"
        )
    return list(folders), [each for each in skipped if Path(each.name).resolve() not in folders]


def read_records(folders: Iterable[Path]) -> tuple[list[Found], list[Skipped]]:
    """Read records; one that cannot be read is named and left out.

    Args:
        folders: Each holds `records.json`.

    Returns:
        What was read, under names that differ, and what was left out.

    Raises:
        UsageError: None could be read.
    """
    records: dict[Path, Record] = {}
    skipped: list[Skipped] = []
    for folder in folders:
        try:
            record = read_record(folder)
        except (OSError, ValueError) as error:  # each says what is wrong and how to go on
            skipped.append(Skipped(str(folder), str(error)))
            continue
        except (KeyError, TypeError, AttributeError) as error:  # JSON of another layout
            reason = (
                f"{folder / RECORD} lacks what a record holds ({type(error).__name__}: {error}). Run the study again."
            )
            skipped.append(Skipped(str(folder), reason))
            continue
        if record.float_scores is None or not record.settings:
            why = "; ".join(f"{what}: {error}" for what, error in record.errors.items()) or "no setting is in it"
            skipped.append(Skipped(str(folder), f"Nothing was measured ({why}). Mend that and run the study again."))
            continue
        records[folder] = record
    if not records:
        told = "".join(f"\n  {each.name}: {each.reason}" for each in skipped)
        raise UsageError(f"None of {len(skipped)} records can be reported:{told}")
    names = _names(list(records))
    found = [Found(names[folder], folder, _run_folder(folder), record) for folder, record in records.items()]
    return found, skipped


def _expand(place: str) -> list[Path]:
    if Path(place).exists():
        return [Path(place)]
    matches = [Path(match) for match in sorted(glob.glob(place, recursive=True))]
    if not matches:
        raise UsageError(
            f"There is no {place}, seen from {Path.cwd()}. Pass folders of runs, a sweep's folder, or a glob such as "
            "'runs/*' that matches some."
        )
    return matches


def _below(path: Path) -> tuple[list[Path], list[Skipped]]:
    if path.is_file():
        return ([path.parent.resolve()], []) if path.name == RECORD else ([], [])
    if (path / RECORD).is_file():
        return [path.resolve()], []
    skipped: list[Skipped] = []
    latest: dict[tuple[Path, str], tuple[int, Path]] = {}
    for file in sorted(path.rglob(RECORD)):
        folder = file.parent
        if _is_replaced(folder, path):
            reason = "A sweep moved this run aside and ran it anew. Name its folder to report it."
            skipped.append(Skipped(str(folder), reason))
            continue
        run, number, loader = _place(folder)
        before = latest.get((run, loader))
        if before is None or number > before[0]:
            latest[run, loader] = (number, folder)
        if before is not None:
            older, newer = sorted([before, (number, folder)])
            reason = f"{newer[1].name} is a later study of the same run. Name this folder to report it."
            skipped.append(Skipped(str(older[1]), reason))
    folders = [folder.resolve() for _, folder in latest.values()]
    return folders, [*skipped, *_unfinished(path)]


def _place(folder: Path) -> tuple[Path, int, str]:
    """The run's folder, the number of the study in it, and the loader that was studied (`ptq/LOADER`), if named."""
    for study, loader in ((folder, ""), (folder.parent, folder.name)):
        match = _STUDY.fullmatch(study.name)
        if match:
            return study.parent, int(match["number"] or 1), loader
    return folder, 1, ""


def _run_folder(folder: Path) -> Path:
    return _place(folder)[0]


def _is_replaced(folder: Path, below: Path) -> bool:
    inside = folder.relative_to(below).parts
    return any(
        part == REPLACED and below.joinpath(*inside[:place], SWEEP_STATE).is_file() for place, part in enumerate(inside)
    )


def _unfinished(path: Path) -> list[Skipped]:
    """Runs of a sweep that have no record."""
    skipped = []
    for file in sorted(path.rglob(RUN_STATE)):
        if _is_replaced(file.parent, path) or any(file.parent.glob(f"ptq*/**/{RECORD}")):
            continue
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            status, reason = state["status"], state.get("reason")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # some other program's file of that name
        told = f": {reason}" if reason else ""
        skipped.append(Skipped(str(file.parent), f"No record; its sweep says {status}{told}. Start the sweep again."))
    return skipped


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell the runs apart, without `ptq`."""
    parts: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        run, number, loader = _place(folder)
        suffix = "".join([f" (study {number})" if number > 1 else "", f" on {loader}" if loader else ""])
        parts[folder] = (*run.parts[:-1], run.name + suffix)
    names = {}
    for folder, own in parts.items():
        others = [other for each, other in parts.items() if each != folder]
        length = next((n for n in range(1, len(own)) if all(o[-n:] != own[-n:] for o in others)), len(own))
        names[folder] = "/".join(own[-length:])
    return names
