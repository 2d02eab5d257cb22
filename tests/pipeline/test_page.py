"""The report's page in a real browser, offline: what it shows on pointing, sliding, choosing and sorting."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tamnas.report import collect
from tamnas.report.figures.style import Picture
from tamnas.report.page.page import html
from tamnas.report.tables.contents import all_tables
from tests.helpers.small_results import PIXEL, ROOT, params, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright, of the extra `test`")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.system, pytest.mark.skipif(not CHROMIUM, reason="needs the browser `chromium`")]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHARTS = ("parameters-clean", "parameters-robust", "macs-robust", "clean-robust")

CUT_LABELS = """chart => {
  const [svg] = chart.getElementsByTagName("svg"), place = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < place.left - 1 || box.right > place.right + 1 || box.bottom > place.bottom + 1;
  }).map((text) => text.textContent);
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two datasets of three rows; the folder with their page and results."""
    folder = tmp_path_factory.mktemp("site")
    raw = params("digits", {"S_8_1": {}, "S_4_2": {}, "S_2_1": {}})
    raw["data"]["other"] = raw["data"]["digits"]
    raw["run"]["datasets"].append("other")
    raw["run"]["rows"]["other-S_8_1"] = {"dataset": "other", "mode": "S_8_1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run(raw, folder)
        datasets = collect.collect()
        overview = Picture("overview", None, "Size against accuracy", "", b"", PIXEL)
        text = html(datasets, all_tables(datasets), [overview])
        (folder / "index.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:  # each start has a new profile
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, site):
    """Opens a page; at the end of the test it has asked no network for anything and said nothing on the console."""
    contexts, said, asked = [], [], []

    def open_page(viewport=WIDE, ready=True, path=site / "index.html", **settings):
        context = browser.new_context(viewport=viewport, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

        def only_files(route):
            if route.request.url.startswith(("file:", "data:")):
                return route.continue_()
            asked.append(route.request.url)
            return route.abort()

        page.route("**/*", only_files)
        page.goto(path.as_uri())
        if ready:
            page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert asked == []


def grid(site: Path, place: str) -> dict[str, dict[str, str]]:
    """{network: {attack: accuracy in percent}} of a grid.csv."""
    networks: dict[str, dict[str, str]] = {}
    for line in csv.DictReader((site / "results" / place / "seed-0" / "grid.csv").open()):
        networks.setdefault(line["network"], {})[line["attack"]] = f"{100 * float(line['accuracy']):.2f}"
    return networks


def marks(page, chart: str, layer: str = "within"):
    return page.locator(f"#{chart} .{layer}_marks path")


def shown_accuracies(page) -> dict[str, str]:
    rows = page.locator("#panel tbody tr").all()
    return {row.locator("td").nth(0).inner_text(): row.locator("td").nth(1).inner_text() for row in rows}


def slide(page, name: str, value: int) -> None:
    """To the value with this number from the left, by keyboard."""
    slider = page.locator(f'input[name="{name}"]')
    slider.press("Home")
    for _ in range(value):
        slider.press("ArrowRight")


@pytest.mark.parametrize(
    ("viewport", "scheme"),
    [
        (WIDE, "light"),
        (PHONE, "dark"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((WIDE, "dark"), (PHONE, "light"))),
    ],
)
def test_the_page_fits(opened, scheme, viewport):
    page = opened(viewport, color_scheme=scheme)
    assert page.locator(".chart svg").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for chart in page.locator(".chart").all():
        place, drawn = chart.bounding_box(), chart.locator("svg").bounding_box()
        assert drawn["width"] <= place["width"] + 1
        assert drawn["width"] > 250
        assert chart.evaluate(CUT_LABELS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
    label = page.locator("#parameters-clean .role-axis-label text").first
    text, colour = page.evaluate("getComputedStyle(document.body).color"), "node => getComputedStyle(node).fill"
    assert label.evaluate(colour) == text
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 702, "height": 1000})  # A4 within its margins; wide tables turn the page
    for table in page.locator("table").all():
        wide = table.evaluate("node => node.classList.contains('wide')")
        assert table.bounding_box()["width"] <= (1030 if wide else 702)
    for chart in page.locator(".chart svg").all():
        assert chart.bounding_box()["width"] <= 702


def test_the_committed_page_opens_with_its_headline_numbers(opened):
    page = opened(path=ROOT / "reports" / "index.html")
    best = json.loads((ROOT / "reports" / "metrics.json").read_text())["digits"]["digits-base"]["best_scratch"]
    clean, _, parameters = page.locator(".best li b").all_inner_texts()
    assert (clean, parameters) == (f"{best['clean']:.2f}%", f"{best['parameters']:,}")
    assert page.locator(".chart svg").count() == 8


def test_pointing_shows_the_networks_own_numbers(opened, site):
    page, pointed = opened(), set()
    topmost = (
        "node => { const box = node.getBoundingClientRect();"
        "return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === node }"
    )
    for chart in (CHARTS[1], CHARTS[3]):
        for mark in marks(page, chart).all():
            mark.scroll_into_view_if_needed()
            label = mark.get_attribute("aria-label")
            name = label.split("name: ")[1]
            if not (mark.evaluate(topmost) and name.endswith(("from scratch", "fine-tuned"))):
                continue
            mark.hover()
            subnet, kind = name.split(", ")
            row, ident = subnet.split()
            stage = {"from scratch": "scratch", "fine-tuned": "finetune"}[kind]
            accuracies = grid(site, f"digits/evaluate_{stage}/{row}")[ident]
            shown = shown_accuracies(page)
            assert shown["None (clean)"].startswith(accuracies["clean"] + " (")
            assert shown["PGD-10 at 8/255"].startswith(accuracies["pgd10_8_255"] + " (")
            option = page.locator('select[name="picked"] option:checked')
            assert option.inner_text() == name
            assert f"runs/{row}/retrain_{stage}/{ident}.safetensors" in page.locator("#panel").inner_text()
            ring = page.locator(f"#{CHARTS[0]} .ring_marks path")
            place = f"clean: {float(accuracies['clean']):g}"
            assert place in ring.get_attribute("aria-label")
            pointed.add(name)
    assert len(pointed) >= 8


def test_a_network_is_chosen_by_keyboard_with_its_drawing_and_curve(opened):
    page = opened()
    choice = page.locator('select[name="picked"]')
    choice.focus()
    before = page.locator("#picked-curve svg").inner_html()
    choice.press("ArrowDown")
    assert page.locator("#picked-curve svg").inner_html() != before
    assert page.locator("#picked-architecture .blocks_marks path").count() == 4
    choice.select_option(label="ResNet-8")
    assert page.locator("#picked-architecture").is_hidden()
    assert "269,722 parameters" in page.locator("#panel").inner_text()


def test_a_tap_chooses(opened):
    page = opened(PHONE, has_touch=True)
    mark = marks(page, "clean-robust").last
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    name = mark.get_attribute("aria-label").split("name: ")[1]
    assert page.locator('select[name="picked"] option:checked').inner_text() == name


def test_sliders_filter(opened, site):
    page = opened()
    subnets = [
        (int(line["parameters"]), 100 * float(line["accuracy"]))
        for kind in ("scratch", "finetune")
        for path in (site / "results/digits" / f"evaluate_{kind}").rglob("grid.csv")
        for line in csv.DictReader(path.open())
        if line["attack"] == "clean"
    ]
    subnet_marks = 'path[aria-label*="from scratch"], path[aria-label*="fine-tuned"]'

    def count() -> int:
        return page.locator("#parameters-robust .within_marks").locator(subnet_marks).count()

    assert count() == len(subnets)
    slide(page, "largest", 4)
    at_most = int(page.locator('label:has(input[name="largest"]) output').inner_text().replace(",", ""))
    assert count() == sum(size <= at_most for size, _ in subnets) < len(subnets)
    page.locator('input[name="largest"]').press("End")
    slide(page, "least_clean", 20)
    at_least = float(page.locator('label:has(input[name="least_clean"]) output').inner_text())
    assert count() == sum(clean >= at_least for _, clean in subnets) < len(subnets)


def test_what_is_dragged_over_in_one_chart_is_lit_in_the_others(opened):
    page = opened()
    faint = '[opacity="0.12"]'
    box = page.locator("#parameters-clean .background").first.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    counts = [page.locator(f"#{chart} .within_marks path{faint}").count() for chart in CHARTS]
    assert 0 < counts[0] < marks(page, CHARTS[0]).count()
    assert set(counts) == {counts[0]}


def test_colour_stands_for_what_is_chosen(opened):
    page = opened()
    fills = {}
    for by in ("kind", "row", "mode"):
        page.locator('select[name="colour_by"]').select_option(by)
        fills[by] = {mark.get_attribute("fill") for mark in marks(page, CHARTS[0]).all()}
        legends = page.locator("[data-legend]:visible")
        assert legends.count() == 1
        assert legends.get_attribute("data-legend") == by
    assert len(fills["kind"]) == 4  # from scratch, fine-tuned, Lego-Net, hand-made
    assert len(fills["row"]) == len(fills["mode"]) == 5  # three rows, pooled, hand-made


def test_another_dataset(opened):
    page = opened()
    page.locator('select[name="dataset"]').select_option("other")
    assert page.locator('select[name="picked"] option:checked').inner_text().startswith("other-S_8_1")
    labels = [mark.get_attribute("aria-label") for mark in marks(page, CHARTS[0]).all()]
    assert all("other-S_8_1" in label or "Lego-Net" in label or "ResNet-8" in label for label in labels)
    assert page.locator('select[name="row"]').input_value() == "other-S_8_1"


def test_the_search_by_generation(opened, site):
    page = opened()
    row = page.locator('select[name="row"]').input_value()
    lines = list(csv.DictReader((site / "results/digits/search" / row / "individuals.csv").open()))
    for generation in (0, 3):
        slide(page, "generation", generation)
        born = sum(int(line["generation"]) == generation for line in lines)
        assert marks(page, "search-robust", "newest").count() == born
        assert 0 < marks(page, "search-robust", "front").count() <= len(lines)
    assert "multiply-accumulates: " in marks(page, "search-robust", "newest").first.get_attribute("aria-label")
    slide(page, "largest", 10)
    at_most = int(page.locator('label:has(input[name="largest"]) output').inner_text().replace(",", ""))
    sizes = [int(line["parameters"]) for line in lines if int(line["generation"]) <= 3]
    small = sum(size <= at_most for size in sizes)
    assert marks(page, "search-robust", "evaluated").count() == small
    assert 0 < small < len(sizes)


def test_tables_sort_by_each_head(opened):
    page = opened()
    table = page.locator("#digits-subnets table")
    head = table.locator("th", has_text="Parameters").first
    column = head.evaluate("node => node.cellIndex")

    def values() -> list[int]:
        cells = [row.locator("td").nth(column).inner_text() for row in table.locator("tbody tr").all()]
        return [int(cell.replace(",", "")) for cell in cells]

    first = values()
    head.get_by_role("button").press("Enter")
    assert values() == sorted(first) != first
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert values() == sorted(first, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    names = table.locator("th", has_text="Subnet").first
    names.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert table.locator("tbody tr td:nth-child(2)").first.inner_text() == "n01"


def test_the_chosen_networks_attacks_sort_and_stay_sorted_for_the_next_one(opened):
    page = opened()
    head = page.locator("#panel th", has_text="Accuracy")
    for order in ("ascending", "descending"):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == order
        page.locator('select[name="picked"]').press("ArrowDown")
        values = [float(text.split(" (")[0]) for text in shown_accuracies(page).values()]
        assert values == sorted(values, reverse=order == "descending")
        assert len(set(values)) > 2


def test_claims_show_the_verdict_first_and_their_numbers_on_a_click(opened):
    page = opened()
    claim = page.locator(".claims details").first
    verdict = claim.locator(".verdict")
    assert verdict.inner_text() in ("holds", "does not hold", "undecided", "not run")
    assert claim.locator("dd").first.is_hidden()
    claim.locator("summary").press("Enter")
    assert claim.locator("dd").first.is_visible()


def test_without_javascript_figures_and_tables_are_there(opened):
    page = opened(ready=False, java_script_enabled=False)
    assert page.locator("#fig-overview img").is_visible()
    assert page.locator("#digits-grid table").is_visible()
    assert page.locator("#explore").is_hidden()
    assert page.locator("#search").is_hidden()
    assert page.locator("th button").count() == 0
