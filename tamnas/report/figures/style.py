"""One look for all figures, files that are the same bytes every time, and labels that do not overlap.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; no figure tells things apart
by colour alone. Sizes are inches and points as printed: 7 in is the width of a page.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
import textalloc
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
# Series are told apart by all three: seven colours, markers and dashes, of different cycle lengths.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES = ("-", "--", "-.", ":")
PAGE = 7.0
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
    return _paletted(buffer) if form == "png" else buffer.getvalue()


def _paletted(png: io.BytesIO) -> bytes:
    """With at most 128 colours, which the eye cannot tell from all of them: a third of the bytes."""
    buffer = io.BytesIO()
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
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
    by_label = {label: handle for handle, label in [*labelled, *((handle, handle.get_label()) for handle in handles)]}
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
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())


def whole_numbers() -> MaxNLocator:
    """Ticks at integers alone, be there only one in view."""
    return MaxNLocator("auto", integer=True, min_n_ticks=1)


def label_points(axes, points: Sequence[tuple[float, float]], texts: Sequence[str], radii: Sequence[float]) -> None:
    """A text near each point (data coordinates; radii in points) with a thin line to it, clear of all points and texts.

    A point with an empty text is only kept clear, one that is NaN is not drawn. Freezes the figure.
    """
    freeze(axes.figure)
    points, texts, sizes = np.array(points), np.array(texts), np.array(radii) * axes.figure.dpi / 72
    drawn = np.isfinite(points).all(axis=1)
    labelled = drawn & (texts != "")
    if not labelled.any():
        return
    textalloc.allocate(
        axes,
        *points[labelled].T,
        texts[labelled].tolist(),
        x_scatter=points[drawn, 0],
        y_scatter=points[drawn, 1],
        scatter_sizes=sizes[drawn],
        text_scatter_sizes=sizes[labelled],
        # Distances are shares of the panel.
        margin=0.004,
        min_distance=0.006,
        max_distance=0.25,
        nbr_candidates=400,
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
        textsize=7,
        linecolor="#4D4D4D",
        linewidth=0.6,
        va="bottom",
        zorder=5,
        path_effects=[HALO],
    )


def short_count(count: int) -> str:
    """1.85M, 133K."""
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.3g}K"


def size_unit(counts: Sequence[int]) -> tuple[float, str]:
    """(divisor, unit) for an axis of parameter counts."""
    return (1e6, "millions") if max(counts) >= 1e6 else (1e3, "thousands")
