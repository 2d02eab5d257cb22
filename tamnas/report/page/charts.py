"""The page's charts, made with Altair: Vega-Lite specifications as plain JSON, the same bytes every time.

Each is a view of its own, as wide as its place on the page. All have the parameters of `_parameters`, which the page's
controls and pointer set in every view, so that what is chosen in one shows in all. Marks become SVG in the page's own
text colour. Data come by name, from `tamnas.report.page.explore`: `networks` and `searches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from tamnas.report.figures.architectures import FAMILY_STYLES
from tamnas.report.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from tamnas.report.study import FINETUNED, HAND_MADE, LEGO, SCRATCH

SHAPES = {SCRATCH: "circle", FINETUNED: "square", LEGO: "diamond", HAND_MADE: "triangle-up"}
SIGNS = {SCRATCH: "●", FINETUNED: "■", LEGO: "◆", HAND_MADE: "▲"}
# Okabe and Ito's without black, then Tol's "muted": 17 are fifteen rows, the pooled Lego-Net and hand-made networks.
PALETTE = (
    *(BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, "#882255", "#999933", "#44AA99", "#CC6677", "#5544BB"),
    *("#DDCC77", "#AA4499", "#117733", "#88CCEE", "#B07040"),
)
TEXT = "currentColor"
CONFIG = {
    "background": "transparent",
    "font": "inherit",
    "view": {"stroke": None},
    "axis": {
        "labelColor": TEXT,
        "labelFontSize": 11.5,
        "titleColor": TEXT,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "domainColor": TEXT,
        "domainOpacity": 0.4,
        "tickColor": TEXT,
        "tickOpacity": 0.4,
        "gridColor": TEXT,
        "gridOpacity": 0.1,
    },
    "title": {"anchor": "start", "color": TEXT, "fontSize": 12.5, "fontWeight": 600, "offset": 8},
    "legend": {"labelColor": TEXT, "labelFontSize": 11.5, "titleColor": TEXT},
}
FEW = 80  # more networks than that need smaller marks
BY_MOUSE = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"  # touch scrolls


@dataclass(frozen=True)
class View:
    """A chart: the `id` of its place on the page and its specification."""

    id: str
    spec: dict


@dataclass(frozen=True)
class Axis:
    """A field of a data set; where it has an interval, the data hold `<field>_low` and `<field>_high`."""

    field: str
    title: str
    scale: alt.Scale
    format: str = "~f"

    @property
    def has_interval(self) -> bool:
        return self.field in ("clean", "robust")

    def x(self, field: str | None = None) -> alt.X:
        axis = alt.Axis(format=self.format, tickCount=4, grid=False, labelOverlap="greedy")
        return alt.X(f"{field or self.field}:Q", scale=self.scale, title=self.title, axis=axis)

    def y(self, field: str | None = None) -> alt.Y:
        """Its title stands above the chart, upright."""
        axis = alt.Axis(format=self.format, tickCount=5)
        return alt.Y(f"{field or self.field}:Q", scale=self.scale, title=None, axis=axis)


def _accuracy(field: str, title: str) -> Axis:
    return Axis(field, f"{title} (%)", alt.Scale(zero=False, nice=False, padding=12))


def _size(field: str, title: str, sizes: Sequence[int]) -> Axis:
    log = {"type": "log"} if max(sizes) > 4 * min(sizes) else {"zero": False}
    return Axis(field, title, alt.Scale(nice=False, padding=14, **log), "~s")


def palette(networks: Sequence[dict]) -> dict[str, dict[str, str]]:
    """What colour can stand for -> its values -> colour."""
    values = {by: dict.fromkeys(network[by] for network in networks) for by in ("kind", "row", "mode")}
    return {by: {value: PALETTE[i % len(PALETTE)] for i, value in enumerate(own)} for by, own in values.items()}


def colour_by(networks: Sequence[dict]) -> str:
    """What colour stands for at first: the row where there are several."""
    return "row" if len({network["row"] for network in networks if network["kind"] == SCRATCH}) > 1 else "kind"


def shapes(networks: Sequence[dict]) -> dict[str, str]:
    """Of each kind that there is, the character that looks like its shape."""
    there = {network["kind"] for network in networks}
    return {kind: sign for kind, sign in SIGNS.items() if kind in there}


def sizes(networks: Sequence[dict], searches: Sequence[dict]) -> list[int]:
    """What the largest size shown can be set to: of each network, and at most of all that a search evaluated."""
    searched = [max(search["parameters"]) for search in searches]
    return sorted({*(network["parameters"] for network in networks), *searched})


def views(networks: Sequence[dict], searches: Sequence[dict], robust: str, curve: str) -> dict[str, list[View]]:
    """By section of the page; `robust` and `curve` name attacks. The page sets which network and dataset are shown."""
    shared = _parameters(networks, searches)
    parts = {"networks": _network_views(networks, robust), "picked": _picked_views(curve, len(networks) < FEW)}
    if searches:
        parts["search"] = _search_views(searches)
    return {
        part: [View(name, _specification(chart, label, shared)) for name, label, chart in charts]
        for part, charts in parts.items()
    }


def _parameters(networks: Sequence[dict], searches: Sequence[dict]) -> dict:
    return {
        "dataset": None,
        "picked": None,
        "colour_by": colour_by(networks),
        "colours": palette(networks),
        "largest": sizes(networks, searches)[-1],
        "least_clean": 0,
        "least_robust": 0,
        "row": None,
        "generation": max((search["generations"] for search in searches), default=0),
        **{f"box_{index}": {} for index in range(4)},
    }


def _specification(chart: alt.LayerChart, label: str, parameters: dict) -> dict:
    size = {"width": "container", "autosize": alt.AutoSizeParams(type="fit", contains="padding", resize=True)}
    spec = chart.properties(description=label, **size).configure(**CONFIG).to_dict(validate=False)
    own = spec.get("params", [])
    names = {parameter["name"] for parameter in own}
    shared = [{"name": name, "value": value} for name, value in parameters.items() if name not in names]
    return {key: value for key, value in spec.items() if key != "$schema"} | {"params": [*own, *shared]}


def _network_views(networks: Sequence[dict], robust: str) -> list[tuple]:
    parameters, macs = (
        _size(field, title, [network[field] for network in networks])
        for field, title in (("parameters", "parameters"), ("macs", "multiply-accumulates"))
    )
    clean, under = _accuracy("clean", "clean accuracy"), _accuracy("robust", f"accuracy under {robust}")
    pairs = [(parameters, clean), (parameters, under), (macs, under), (clean, under)]
    size = 110 if len(networks) < FEW else 45
    return [
        (f"{x.field}-{y.field}", f"{y.title} over {x.title}", _networks(index, pairs, size))
        for index, (x, y) in enumerate(pairs)
    ]


def _networks(index: int, pairs: Sequence[tuple[Axis, Axis]], size: int) -> alt.LayerChart:
    """Those within the controls in colour, the less accurate faintly, the picked one ringed, with its intervals."""
    x, y = pairs[index]
    within = "datum.clean >= least_clean && (datum.robust || 0) >= least_robust"
    in_boxes = " && ".join(
        f"(!box_{number}.{x.field} || "
        f"(inrange(datum.{x.field}, box_{number}.{x.field}) && inrange(datum.{y.field}, box_{number}.{y.field})))"
        for number, (x, y) in enumerate(pairs)
    )
    box = alt.selection_interval(name=f"box_{index}", on=BY_MOUSE, mark=alt.BrushConfig(fill=GREY, stroke=TEXT))
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())))
    here = f"datum.dataset == dataset && datum.parameters <= largest && isValid(datum.{y.field})"
    base = alt.Chart(alt.NamedData("networks")).transform_filter(here).encode(x=x.x(), y=y.y())
    faint = base.mark_point(size=40, filled=True, color=GREY, opacity=0.3).encode(shape=shape).properties(name="all")
    points = (
        base.transform_filter(within)
        .transform_calculate(colour="colours[colour_by][datum[colour_by]]")
        .mark_point(size=size, filled=True, stroke=TEXT, strokeWidth=0.6, cursor="pointer")
        .encode(
            shape=shape,
            color=alt.Color("colour:N", scale=None),
            opacity=alt.condition(in_boxes, alt.value(0.95), alt.value(0.12)),
            tooltip=alt.Tooltip("name:N"),
            order=alt.Order("kind:O"),  # from scratch above fine-tuned
        )
        .properties(name="within")
    )
    picked = base.transform_filter("datum.key == picked")
    rule = picked.mark_rule(color=TEXT, strokeWidth=1.3)
    rules = [rule.encode(x=x.x(f"{x.field}_low"), x2=f"{x.field}_high")] if x.has_interval else []
    rules += [rule.encode(y=y.y(f"{y.field}_low"), y2=f"{y.field}_high")]
    ring = (
        picked.mark_point(size=3.5 * size, filled=False, color=TEXT, strokeWidth=1.6)
        .encode(shape=shape)
        .properties(name="ring")
    )
    return alt.layer(faint.add_params(box), *rules, points, ring).properties(height=300, title=y.title)


def _picked_views(attack: str, few: bool) -> list[tuple]:
    return [
        (
            "picked-architecture",
            "choice blocks of the chosen network, from the first layer to the last",
            _architecture(),
        ),
        ("picked-curve", "accuracy of the chosen network over the radius of the attack", _curve(attack, few)),
    ]


def _architecture() -> alt.LayerChart:
    """A bar a choice block: its channel ratio within the largest, channels above, block below."""
    fields = ["layer", "block", "ratio", "channels"]
    scale = alt.Scale(domain=list(FAMILY_STYLES), range=[style["facecolor"] for style in FAMILY_STYLES.values()])
    base = (
        alt.Chart(alt.NamedData("networks"))
        .transform_filter("datum.key == picked && isValid(datum.layers)")
        .transform_flatten([f"layers.{field}" for field in fields], as_=fields)
        .transform_lookup("block", from_=alt.LookupData(alt.NamedData("blocks"), "block", ["family", "text"]))
        .encode(x=alt.X("layer:O", axis=None, scale=alt.Scale(paddingInner=0.25)))
    )
    height = alt.Y("ratio:Q", title=None, axis=alt.Axis(tickCount=3, grid=False))
    bars = base.mark_bar(stroke=TEXT, strokeWidth=0.7).encode(
        y=height, color=alt.Color("family:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", offset=46))
    )
    bars = bars.properties(name="blocks")
    outlines = base.mark_bar(fill=None, stroke=TEXT, strokeWidth=0.7, strokeOpacity=0.35).encode(y="layers.largest:Q")
    above = base.mark_text(color=TEXT, dy=-6, fontSize=10).encode(y="layers.largest:Q", text="channels:Q")
    below = base.mark_text(color=TEXT, baseline="top", fontSize=10, lineBreak="\n").encode(
        y=alt.value(alt.expr("height + 5")), text="text:N"
    )
    title = alt.Title("Channel ratio and block of each layer", offset=16)
    return alt.layer(outlines, bars, above, below).properties(height=215, title=title)


def _curve(attack: str, few: bool) -> alt.LayerChart:
    """Of the chosen network with its intervals, of all others faintly."""
    fields = ["eps", "accuracy", "low", "high"]
    columns = [f"curve.{field}" for field in ("eps", "accuracy", "accuracy_low", "accuracy_high")]
    x, y = Axis("eps", "radius (1/255 of the pixel range)", alt.Scale(padding=8)), _accuracy("accuracy", "accuracy")
    base = (
        alt.Chart(alt.NamedData("networks"))
        .transform_filter("datum.dataset == dataset")
        .transform_flatten(columns, as_=fields)
        .encode(x=x.x(), y=y.y())
    )
    others = base.mark_line(color=GREY, opacity=0.3 if few else 0.06, strokeWidth=1).encode(detail="key:N")
    own = base.transform_filter("datum.key == picked")
    rule = own.mark_rule(color=TEXT, strokeWidth=1.3).encode(y=y.y("low"), y2="high")
    line = own.mark_line(color=TEXT, strokeWidth=2)
    points = own.mark_point(color=TEXT, filled=True, size=50)
    return alt.layer(others, rule, line, points).properties(
        height=175, title=f"Accuracy (%) under {attack} over its radius"
    )


def _search_views(searches: Sequence[dict]) -> list[tuple]:
    parameters = _size("parameters", "parameters", [size for search in searches for size in search["parameters"]])
    macs = all(search["macs"] for search in searches)
    return [
        (
            f"search-{y.field}",
            f"{y.title} over {parameters.title}, generation by generation",
            _search(parameters, y, macs),
        )
        for y in (_accuracy("clean", "clean accuracy"), _accuracy("robust", "robust accuracy"))
    ]


def _search(x: Axis, y: Axis, macs: bool) -> alt.LayerChart:
    """All evaluated until a generation, those that it evaluated, the front of all until then."""
    fields = ["born", "front", "parameters", "clean", "robust", "key", *["macs"] * macs]
    base = (
        alt.Chart(alt.NamedData("searches"))
        .transform_filter("datum.row == row")
        .transform_flatten(fields)
        .encode(x=x.x(), y=y.y())
    )
    room = base.mark_point(opacity=0)  # keeps the axes
    until = base.transform_filter("datum.born <= generation && datum.parameters <= largest").encode(
        tooltip=[
            alt.Tooltip("born:Q", title="evaluated in generation"),
            alt.Tooltip("parameters:Q", format=","),
            *([alt.Tooltip("macs:Q", title="multiply-accumulates", format=",")] if macs else []),
            alt.Tooltip("clean:Q", title="clean (%)"),
            alt.Tooltip("robust:Q", title="robust (%)"),
        ]
    )
    earlier = until.mark_point(size=26, filled=True, color=GREY, opacity=0.45).properties(name="evaluated")
    newest = (
        until.transform_filter("datum.born == generation")
        .mark_point(size=60, filled=True, color=BLUE, opacity=0.9)
        .properties(name="newest")
    )
    front = (
        until.transform_filter("datum.front >= generation")
        .mark_point(size=110, color=VERMILLION, strokeWidth=1.6)
        .properties(name="front")
    )
    picked = until.transform_filter("datum.key == picked").mark_point(size=380, color=TEXT, strokeWidth=1.6)
    return alt.layer(room, earlier, newest, front, picked).properties(height=240, title=y.title)
