"""One look for all figures, files that are the same bytes every time, and labels that do not overlap.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; no figure tells things apart
by colour alone. Sizes are inches and points as printed: 3.4 in is a column, 7 in a page.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
# Series are told apart by all three: seven colours, markers and dashes, of different cycle lengths.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES = ("-", "--", "-.", ":")
PAGE, COLUMN = 7.0, 3.4
SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tamnas",
    "svg.fonttype": "path",
}
PNG_DPI = 200
NEAR = 2  # points between a marker and a label right beside it
LEADER = {"arrowstyle": "-", "color": "#4D4D4D", "linewidth": 0.6, "shrinkA": 0}
HALO = withStroke(linewidth=2, foreground="white")  # keeps a text readable over lines


@dataclass(frozen=True)
class Picture:
    """A finished figure: file stem, caption (plain text), both files' bytes; `dataset` as in `Table`."""

    name: str
    dataset: str | None
    title: str
    caption: str
    svg: bytes
    png: bytes


@contextmanager
def styled() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # no user's matplotlibrc may change the bytes
        matplotlib.rcParams.update(SETTINGS)
        yield


def picture(name: str, dataset: str | None, title: str, caption: str, draw: Callable[..., Figure], *args) -> Picture:
    """Draw and render; no clock, no version and no random id gets into the files."""
    with styled():
        figure = draw(*args)
        freeze(figure)  # both files from one layout
        return Picture(name, dataset, title, caption, _render(figure, "svg"), _render(figure, "png"))


def _render(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if form == "svg" else {"Software": None}
    figure.savefig(buffer, format=form, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()


def new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # gives the figure a renderer, which placing labels needs
    return figure


def series(index: int) -> dict:
    """Colour, marker and dash of the series with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def legend_above(figure: Figure, handles: Sequence[Artist] = (), columns: int = 4, **options) -> None:
    """One legend over all panels: their labels, each once, then those of `handles`."""
    labelled = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    by_label = {label: handle for handle, label in [*labelled, *((one, one.get_label()) for one in handles)]}
    figure.legend(
        list(by_label.values()),
        list(by_label),
        loc="outside upper center",
        ncols=min(columns, len(by_label)),
        handletextpad=0.5,
        columnspacing=1.4,
        **options,
    )


def freeze(figure: Figure) -> None:
    """Settle the layout, so that labels placed next stay where they are; does nothing the second time."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.get_xlim(), axes.get_ylim()  # autoscaling is lazy, and transforms do not ask for it


def whole_numbers(bins: int | str = "auto") -> MaxNLocator:
    """Ticks at integers alone, be there only one in view."""
    return MaxNLocator(bins, integer=True, min_n_ticks=1)


def label_points(
    axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    radii: Sequence[float],
    avoid: Sequence[tuple[float, float]] = (),
) -> None:
    """A text beside each point (data coordinates; radii in points), clear of the others where there is room.

    `avoid`: small markers without a label. Freezes the figure. Tries growing distances in eight directions and
    takes the first free place, with a thin line to its point wherever the text is not right beside it, or is nearer to
    the middle of another point than to that of its own; without a free place, the least crowded one.
    """
    figure = axes.figure
    freeze(figure)
    scale = 72 / figure.dpi  # pixels to points
    renderer = figure.canvas.get_renderer()
    centres = [axes.transData.transform(point) * scale for point in points]
    frame = axes.get_window_extent(renderer)
    inside = (frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in (axes.transData.transform(point) * scale for point in avoid)]
    markers = [(*centre, radius) for centre, radius in zip(centres, radii, strict=True)]
    for index, (text, point) in enumerate(zip(texts, points, strict=True)):
        if not text or not all(map(math.isfinite, point)):
            continue
        probe = axes.text(*point, text, fontsize=7)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        others = markers[:index] + markers[index + 1 :]
        place = _place(markers[index], others, (extent.width * scale, extent.height * scale), taken, inside)
        x, y, radius = markers[index]
        left, bottom, right, top = place.box
        taken.append(place.box)
        line = LEADER | {"shrinkB": radius} if place.distance > NEAR or place.strays else None
        offset = ((left + right) / 2 - x, (bottom + top) / 2 - y)
        note = axes.annotate(
            text,
            point,
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            arrowprops=line,
            annotation_clip=False,
            zorder=5,
            path_effects=[HALO],
        )
        note.set_in_layout(False)


@dataclass(frozen=True)
class _Place:
    """A place for a label, in points; `strays`: a reader would take it for another marker's."""

    box: tuple[float, float, float, float]
    distance: float
    crowding: float
    strays: bool


def _place(marker, others, size, taken, inside) -> _Place:
    """The first free place; right beside its marker only where it is nearer to that than to any other."""
    x, y, radius = marker
    width, height = size
    best = through = None
    for distance in (NEAR, 8, 16, 26, 38):
        for angle in (45, 135, 315, 225, 0, 90, 180, 270):
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # the label's centre, so that its near side is `distance` from the marker
            dx = cos * (radius + distance) + width / 2 * _sign(cos)
            dy = sin * (radius + distance) + height / 2 * _sign(sin)
            box = (x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2)
            crowding = sum(_overlap(box, other) for other in taken) + _outside(box, inside)
            strays = any(_gap(other, box) < _gap(marker, box) + 1 for other in others)
            if crowding <= 1e-6 and (distance > NEAR or not strays):
                # a line that runs through another marker seems to end there
                if distance == NEAR or not any(_runs_through(marker, box, other) for other in others):
                    return _Place(box, distance, 0.0, strays)
                through = through or _Place(box, distance, 0.0, strays)
            if best is None or crowding < best.crowding - 1e-6:
                best = _Place(box, distance, crowding, strays)
    return through or best


def _runs_through(marker, box, other) -> bool:
    """Whether the line from a marker to the middle of its label meets another one, unless the two lie on each other."""
    x, y, radius = marker
    dx, dy = (box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y
    along = ((other[0] - x) * dx + (other[1] - y) * dy) / (dx * dx + dy * dy)
    near = math.hypot(other[0] - x - min(max(along, 0), 1) * dx, other[1] - y - min(max(along, 0), 1) * dy)
    return near < other[2] and math.hypot(other[0] - x, other[1] - y) > radius


def _gap(marker, box) -> float:
    """From the edge of a round marker to a box."""
    x, y, radius = marker
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3])) - radius


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)


def _overlap(a, b) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box, frame) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return 10 * (area - _overlap(box, frame))


def short_count(count: int) -> str:
    """1.85M, 133K."""
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.3g}K"


def size_unit(counts: Sequence[int]) -> tuple[float, str]:
    """(divisor, unit) for an axis of parameter counts."""
    return (1e6, "millions") if max(counts) >= 1e6 else (1e3, "thousands")
