"""The report as one HTML file that needs no network, and as a README for a git host.

Figures go in as lossless WebP, which takes three quarters of a PNG's bytes, in base64; styles, scripts and data inline.
The page follows the reader's light or dark mode. Without JavaScript it shows the same numbers, in figures and tables.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from vl_convert import javascript_bundle

from tamnas.report.claims.claims import RULES, caveats, judged, scope
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED
from tamnas.report.figures.style import Picture
from tamnas.report.page import words
from tamnas.report.page.charts import colour_by, palette, shapes, sizes, views
from tamnas.report.page.explore import attack_names, best_keys, blocks, networks, searches
from tamnas.report.study import Dataset
from tamnas.report.tables.table import Table

HERE = Path(__file__).parent
STYLE, SCRIPT = HERE / "page.css", HERE / "page.js"


def html(datasets: Sequence[Dataset], tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    explored = _explored(datasets)
    order = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
    return _rendered(
        "page.html.j2",
        datasets,
        tables,
        pictures,
        claims=sorted(judged(datasets), key=lambda line: order.index(line[2].verdict)),
        claim_notes=[*RULES, *scope(datasets)],
        caveats=caveats,
        explored=explored,
        style=STYLE.read_text(encoding="utf-8"),
        script=SCRIPT.read_text(encoding="utf-8"),
        vega=javascript_bundle() if explored else None,
    )


def readme(datasets: Sequence[Dataset], tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """Headline numbers, links to the tables, and the figures, for reading on a git host."""
    return _rendered("README.md.j2", datasets, tables, pictures)


def _explored(datasets: Sequence[Dataset]) -> dict | None:
    """What the page's charts and controls are made of; None where nothing was run."""
    own, searched = networks(datasets), searches(datasets)
    if not own:
        return None
    attacks = dict.fromkeys(dataset.key_attack.text for dataset in datasets if dataset.rows)
    curves = dict.fromkeys(f"PGD-{max(dataset.plan.eval.steps)}" for dataset in datasets if dataset.rows)
    accuracies = {which: [one[which] for one in own if one[which] is not None] for which in ("clean", "robust")}
    parts = views(own, searched, " or ".join(attacks), " or ".join(curves))
    return {
        "networks": own,
        "searches": searched,
        "views": parts,
        "data": {
            "views": [vars(view) for part in parts.values() for view in part],
            "datasets": {"networks": own, "searches": searched, "blocks": blocks()},
            "attacks": [*attack_names(datasets).values()],
            "best": best_keys(datasets),
        },
        "colour_by": colour_by(own),
        "sizes": sizes(own, searched),
        "least": {which: int(min(values, default=0)) for which, values in accuracies.items()},
        "legends": palette(own),
        "shapes": shapes(own),
    }


def _rendered(template: str, datasets: Sequence[Dataset], tables, pictures, **more) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["webp"] = _webp
    return environment.get_template(template).render(
        datasets=datasets, tables=tables, pictures=pictures, words=words, alerts=words.alerts(datasets), **more
    )


def _webp(png: bytes) -> str:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()
