"""How far runs are and how long the rest takes, from what they write and how long others took."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Going:
    """A run that is going on.

    Attributes:
        base: Runs of the same base are taken to last equally long.
        elapsed: Seconds since it began.
        fraction: Share of its epochs that is done, in [0, 1]; None where that is not known. At 1 it is being measured,
            which no epoch tells the length of.
    """

    base: str
    elapsed: float
    fraction: float | None


def epochs_done(metrics: Path) -> int | None:
    r"""How many epochs a run has completed, from the CSV that Lightning's logger writes.

    Args:
        metrics: `metrics.csv`; an epoch in it is complete once a score of the epoch (`val/...`, `..._epoch`) stands
            there, and also once a later one has begun.

    Returns:
        The count; None where no epoch has been written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("epoch,step,train/loss_step,val/accuracy\n0,4,2.1,\n0,9,,0.5\n1,14,1.3,\n")
        >>> epochs_done(file)
        1
    """
    try:
        with metrics.open("rb") as file:
            header = next(csv.reader([file.readline().decode(errors="replace")]), [])
            start = file.tell()
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            cut = file.tell() > start
            rows = list(csv.reader(io.StringIO(file.read().decode(errors="replace"))))
    except FileNotFoundError:
        return None
    if "epoch" not in header:
        return None
    column = header.index("epoch")
    ends = [index for index, name in enumerate(header) if name.startswith("val/") or name.endswith("_epoch")]
    done = None
    # A row that is cut at either end, being written just now, is left for the next look.
    for row in rows[1 if cut else 0 :]:
        if len(row) == len(header) and row[column].isdecimal():
            done = max(done or 0, int(row[column]) + any(row[index] for index in ends))
    return done


def remaining_seconds(
    going: Sequence[Going], waiting: Sequence[str], took: Mapping[str, float], jobs: int
) -> float | None:
    """How long the sweep still takes.

    Args:
        going: Runs that are going on.
        waiting: The base of each run that is not.
        took: Mean seconds of the runs that were finished, for each base.
        jobs: How many runs go on at one time.

    Returns:
        Seconds: the work that is left divided by the jobs, and never less than the longest run that goes on. None as
        long as nothing was finished or is far enough to judge by, or what is being measured has no run of its base
        before it.

    Example:
        >>> remaining_seconds([Going("a", 30.0, 0.5)], ["a", "a", "b"], {"a": 60.0, "b": 100.0}, jobs=2)
        125.0
    """
    known = dict(took)
    if any(run.fraction == 1 and run.base not in known for run in going):
        return None
    for run in going:
        # The first tenth is mostly starting up.
        if run.base not in known and run.fraction is not None and run.fraction >= 0.1:
            known[run.base] = run.elapsed / run.fraction
    if not known:
        return None
    mean = sum(known.values()) / len(known)
    left = [_left(run, known.get(run.base, mean)) for run in going]
    work = sum(left) + sum(known.get(base, mean) for base in waiting)
    return max([work / jobs, *left])


def _left(run: Going, expected: float) -> float:
    if run.fraction is None or run.fraction < 0.1 or run.fraction == 1:
        return max(0.0, expected - run.elapsed)
    return run.elapsed * (1 - run.fraction) / run.fraction


def as_time(seconds: float | None) -> str:
    """Seconds as people read them: `45 s`, `12 min`, `3 h 05 min`; `?` for None.

    Example:
        >>> as_time(45.2), as_time(725), as_time(11100), as_time(None)
        ('45 s', '12 min', '3 h 05 min', '?')
    """
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
