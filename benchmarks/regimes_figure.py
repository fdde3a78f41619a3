"""The picture of `regimes.py`: accuracy against overconfidence, one point a regime, every point named."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, BboxBase

from qcal.plots import style

Direction = Literal["baseline", "under", "calibrating", "over"]
Place = tuple[float, float]

# Colour, marker and words of the legend. Okabe and Ito's colours; the shapes tell the same without colour.
LOOKS: dict[Direction, tuple[str, str, str]] = {
    "baseline": (style.INK, "o", "cross-entropy"),
    "under": (style.UNDERCONFIDENT, "v", "stated to lower confidence"),
    "calibrating": ("#009e73", "s", "stated to calibrate"),
    "over": (style.OVERCONFIDENT, "^", "stated to raise confidence"),
}
DIAL = "dial"
MARKER_SIZE = 5.5  # points
LABEL_DISTANCES = (7, 10, 14, 19, 25, 32, 40, 50, 62, 76, 92, 110)  # points from a marker to its name, nearest first
# Degrees, to the right first; the shallow ones last, because their leaders run along the dial's line.
LABEL_ANGLES = (0, 180, 90, 270, 315, 225, 45, 135, 300, 240, 60, 120, 330, 210, 30, 150, 285, 255, 75, 105, 345, 15)
ROOM_AT_RIGHT = 0.26  # of the axis, for the names of the rightmost points
NAME_PADDING = 2.0  # points, so that no name stands closer to another's marker
LEADER_FROM = 12  # points; farther labels get a line to their marker


@dataclass(frozen=True)
class Point:
    """A regime's scores, as fractions: means over the seeds and standard deviations (NaN of one seed)."""

    name: str
    direction: Direction
    strength: float | None  # of the dial
    overconfidence: float
    overconfidence_sd: float
    accuracy: float
    accuracy_sd: float

    @property
    def label(self) -> str:
        """The name; on the dial the strength before it, so that `0` is cross-entropy there too."""
        if self.strength is None:
            return self.name
        strength = style.minus(f"{self.strength:+g}") if self.strength else "0"
        return strength if self.name == DIAL else f"{strength}: {self.name}"


def draw_regimes(ax: Axes, points: Sequence[Point], *, num_seeds: int) -> Axes:
    """Points are means over the seeds, bars one standard deviation; the line is the dial."""
    points = merged(points)
    draw_points(ax, points)
    draw_dial(ax, dial(points))
    ax.axvline(0, color=style.MUTED, linewidth=style.LINE_WIDTH, linestyle=(0, (4, 3)), zorder=1)
    ax.margins(0.05)
    low, high = ax.get_xlim()
    ax.set_xlim(low, high + ROOM_AT_RIGHT * (high - low))
    spread = f"mean of {num_seeds} seeds, bars: one standard deviation over the seeds" if num_seeds > 1 else "one seed"
    style.dress(
        ax,
        title="Accuracy against overconfidence, per training regime",
        subtitle=f"digits, residual network of depth 8, test split; {spread}",
        xlabel="overconfidence (mean confidence minus accuracy), percentage points",
        ylabel="accuracy",
    )
    style.percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: style.minus(f"{100 * share:+g}") if share else "0"))
    ax.legend(loc="lower left", fontsize=style.FONT_SIZE, frameon=False)
    name_points(ax, points)
    return ax


def merged(points: Sequence[Point]) -> list[Point]:
    """One point, with both names, for a position of the dial and the regime that is the same loss."""
    on_dial = {(point.overconfidence, point.accuracy): point for point in dial(points)}
    rest = []
    for point in points:
        twin = on_dial.get((point.overconfidence, point.accuracy))
        if twin is None:
            rest.append(point)
        elif point.strength is None:
            on_dial[point.overconfidence, point.accuracy] = replace(twin, name=point.name)
    return [*on_dial.values(), *rest]


def draw_points(ax: Axes, points: Sequence[Point]) -> None:
    """Markers and bars, with one entry in the legend a direction."""
    in_legend: set[str] = set()
    for point in sorted(points, key=lambda point: list(LOOKS).index(point.direction)):
        colour, marker, words = LOOKS[point.direction]
        ax.errorbar(
            point.overconfidence,
            point.accuracy,
            xerr=point.overconfidence_sd,
            yerr=point.accuracy_sd,
            color=colour,
            marker=marker,
            markersize=MARKER_SIZE,
            ecolor=(colour, 0.35),
            elinewidth=style.LINE_WIDTH,
            linestyle="none",
            zorder=3,
            label=None if point.direction in in_legend else words,
        )
        in_legend.add(point.direction)


def dial(points: Sequence[Point]) -> list[Point]:
    """The points of the dial, by strength."""
    return sorted((point for point in points if point.strength is not None), key=lambda point: point.strength or 0.0)


def draw_dial(ax: Axes, points: Sequence[Point]) -> None:
    """A line through the dial's points."""
    x, y = [point.overconfidence for point in points], [point.accuracy for point in points]
    ax.plot(x, y, color=style.MUTED, linewidth=1.4, zorder=1.5, label="the dial, with its strengths")


def name_points(ax: Axes, points: Sequence[Point]) -> None:
    """Put each name at the nearest place where it hides nothing; the dial chooses first, then the most crowded."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` must be part of a figure, got one that was removed. Add it to a figure.")
    figure.draw_without_rendering()  # limits, transforms and the legend's place are final from here
    figure.set_layout_engine("none")
    at = [pixels(ax, point.overconfidence, point.accuracy) for point in points]
    legend = ax.get_legend()
    scale = figure.dpi / 72  # pixels per point
    solid = [box for place in at for box in along(place, place, half_width=0.6 * MARKER_SIZE * scale)]
    solid += [legend.get_window_extent()] if legend else []
    faint = lines(ax, points)
    crowding = [sorted(math.dist(place, other) for other in at)[3] for place in at]
    for i in sorted(range(len(points)), key=lambda i: (points[i].strength is None, crowding[i])):
        solid += name_point(ax, points[i], solid=solid, faint=faint, scale=scale)


def lines(ax: Axes, points: Sequence[Point]) -> list[Bbox]:
    """What a name may not hide but its leader may cross: bars, the dial, the line at 0."""
    ends = [pixels(ax, point.overconfidence, point.accuracy) for point in dial(points)]
    low, high = ax.get_ylim()
    segments = [*pairwise(ends), (pixels(ax, 0, low), pixels(ax, 0, high))]
    for point in points:
        x, y = point.overconfidence, point.accuracy
        dx, dy = (0.0 if math.isnan(sd) else sd for sd in (point.overconfidence_sd, point.accuracy_sd))
        segments += [(pixels(ax, x - dx, y), pixels(ax, x + dx, y)), (pixels(ax, x, y - dy), pixels(ax, x, y + dy))]
    return [box for start, end in segments for box in along(start, end)]


def name_point(ax: Axes, point: Point, *, solid: Sequence[Bbox], faint: Sequence[Bbox], scale: float) -> list[Bbox]:
    """Write one name where it is free; gives the room of name and leader. `scale`: pixels per point."""
    x, y = pixels(ax, point.overconfidence, point.accuracy)
    for hidden, distance, angle in product((faint, ()), LABEL_DISTANCES, LABEL_ANGLES):  # over pale bars if it must
        right, up = distance * math.cos(math.radians(angle)), distance * math.sin(math.radians(angle))
        name = write_name(ax, point, (right, up))
        box = name.get_window_extent().padded(NAME_PADDING * scale)
        far = distance > LEADER_FROM
        reach = [(x + share * scale * right, y + share * scale * up) for share in (1.3 * MARKER_SIZE / distance, 1)]
        room = [box, *along(reach[0], reach[1])] if far else [box]
        if within(box, ax.bbox) and not touch(room, solid) and not touch([box], hidden):
            if far:
                draw_leader(ax, point, (right, up))
            return room
        name.remove()
    name = write_name(ax, point, (LABEL_DISTANCES[0], 0))  # no room anywhere: a name over another beats none
    return [name.get_window_extent()]


def write_name(ax: Axes, point: Point, offset: Place) -> Annotation:
    """The name at an offset in points, on the side of the marker that the offset says."""
    right, up = offset
    return ax.annotate(
        point.label,
        (point.overconfidence, point.accuracy),
        offset,
        textcoords="offset points",
        ha="left" if right > 1 else "right" if right < -1 else "center",
        va="center" if abs(up) < 1 else "bottom" if up > 0 else "top",
        fontsize=style.FONT_SIZE,
        fontweight="normal" if point.strength is None else "bold",
        color=style.INK if point.strength is not None else LOOKS[point.direction][0],
        zorder=4,
    )


def draw_leader(ax: Axes, point: Point, offset: Place) -> None:
    """A thin line from a name to its marker."""
    ax.annotate(
        "",
        (point.overconfidence, point.accuracy),
        offset,
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "color": LOOKS[point.direction][0],
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 0.5 * MARKER_SIZE,
        },
        zorder=2,
    )


def pixels(ax: Axes, x: float, y: float) -> Place:
    """Where a point of the data lies on the canvas."""
    right, up = ax.transData.transform((x, y))
    return float(right), float(up)


def along(start: Place, end: Place, *, half_width: float = 1.5) -> list[Bbox]:
    """Small boxes that cover a line, in pixels."""
    steps = max(1, math.ceil(math.dist(start, end) / (2 * half_width)))
    centres = [tuple(a + (b - a) * step / steps for a, b in zip(start, end, strict=True)) for step in range(steps + 1)]
    return [Bbox([[x - half_width, y - half_width], [x + half_width, y + half_width]]) for x, y in centres]


def within(box: Bbox, frame: BboxBase) -> bool:
    """Whether a box lies in a frame."""
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def touch(boxes: Sequence[Bbox], others: Sequence[Bbox]) -> bool:
    """Whether any two boxes overlap."""
    return any(box.overlaps(other) for box in boxes for other in others)
