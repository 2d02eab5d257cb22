"""The documentation does what it says: each block of the tutorials runs, in order, in a checkout with smaller
parameters (`tests.helpers.tutorial`), each of other pages in its own; links lead somewhere; the site needs nobody.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from tamnas.cli.main import main
from tamnas.config.resolve import parse_params
from tests.helpers.tiny import ROOT
from tests.helpers.tutorial import Block, Reader, blocks, checkout

DOCS = ROOT / "docs"
PAGES = sorted([*(DOCS / "tutorials").glob("*.md"), DOCS / "api.md"])
COMMITTED = ("report",)  # reads the committed results, which belong to the committed parameters
LEFT_OUT = {
    ("own-images", "days on a GPU"): "tamnas profile paper-cifar10\ndvc repro\n",
    ("all-rows", "hours on real images"): "git checkout params.yaml    # takes smoke back: a profile lies over what is "
    "there\ntamnas profile mini --set data.cifar10.path=CIFAR10.npz\ntamnas run --parallel 2\n",
    ("export", "downloads CIFAR-10"): "tamnas profile cifar10-cpu --set data.cifar10.source=cifar10 --set "
    "data.cifar10.path=null --set data.cifar10.images=null\ndvc repro prepare@cifar10\n"
    "tamnas export cifar10-cpu/lego --format onnx\n",
    ("export", "ExecuTorch needs an environment of its own"): "tamnas export digits/lego --format executorch\n",
}
ALL = [(page, block) for page in PAGES for block in blocks(page)]


def test_every_block_is_run_or_says_why_not():
    assert {(page.stem, block.reason): block.text for page, block in ALL if block.reason} == LEFT_OUT
    assert {block.language for _, block in ALL} == {"sh", "python", "yaml"}
    assert sum(block.language != "yaml" and not block.reason for _, block in ALL) >= 30
    for page, block in ALL:
        if block.title and not block.reason:
            assert re.fullmatch(r"\w+\.(py|yaml)", block.title), f"{page.name}:{block.line}"


COMMANDS = [line for _, block in ALL if block.language == "sh" for line in block.text.splitlines()]
# Elsewhere they stand in blocks without a language.
ELSEWHERE = [
    (page.stem, block) for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) for block in blocks(page)
    if not block.language
]  # fmt: skip
TOLD = [
    command.strip()
    for _, block in ELSEWHERE
    for command in re.findall(r"^(?:tamnas|dvc) [a-z][^#\n|&;\\]*", block.text, re.MULTILINE)
]
# By page or block, whose first words are told.
NOT_RUN = {
    ("README", "make"): "the tutorial `first-run` runs `make`; the rest are these tests",
    ("README", "tamnas models"): "the tutorials `export` and `first-run` run all but `compare`, and test_show.py that",
    ("README", "tamnas evaluate"): "the tutorial `evaluate` runs it, with the files that it names",
    ("README", "tamnas profile paper-cifar10"): "days on a GPU",
    ("README", "tamnas synthetic"): "the tutorial `all-rows` runs it",
    ("cluster", ""): "needs a Ray cluster or SLURM; tests/pipeline/test_ray_stages.py has a cluster of two nodes",
    ("gpu", ""): "needs a GPU, or what a machine with one has packed; tests/unit/test_gpu.py reads the scripts",
    ("profiles", "tamnas profile mini"): "hours on real images",
    ("profiles", "tamnas synthetic"): "the tutorial `all-rows` runs it",
}
TRIED = [
    (page, block) for page, block in ELSEWHERE
    if not any(page == left and block.text.startswith(start) for left, start in NOT_RUN)
]  # fmt: skip


@pytest.mark.parametrize("line", dict.fromkeys([*COMMANDS, *TOLD]))
def test_a_command_has_these_options(line, monkeypatch):
    """Quickly, without running it, on files that the page makes."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, context: value)
    program, *arguments = shlex.split(line)
    if program == "tamnas":
        name, *rest = arguments
        main.get_command(click.Context(main), name).make_context(name, rest)
    elif program == "dvc":
        get_main_parser().parse_args(arguments)
    else:
        assert line in ("make", "source .venv/bin/activate") or program == "git"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(page, tmp_path):
    if not (Path(sys.prefix) / "ready").exists():
        pytest.skip("these tests do not run in the environment that `make env` makes")
    reader = Reader(checkout(tmp_path / "tamnas"), smaller=page.stem not in COMMITTED)
    for block in blocks(page):
        if block.reason is None and (block.language != "yaml" or block.title):
            reader.follow(block)


def test_every_block_that_no_test_runs_is_there():
    for page, start in NOT_RUN:
        assert any(page == stem and block.text.startswith(start) for stem, block in ELSEWHERE), (page, start)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), TRIED, ids=[f"{page}-{block.line}" for page, block in TRIED])
def test_what_a_page_tells_can_be_typed(page, block, tmp_path):
    """In a fresh checkout, with the mode that README adds where a page names its row."""
    reader = Reader(checkout(tmp_path / "tamnas"))
    if "digits-S_6_10" in block.text:
        (mode,) = (one for one in blocks(ROOT / "README.md") if one.language == "yaml" and "S_6_10" in one.text)
        reader.follow(replace(mode, title="params.yaml"))
    assert "ERROR" not in reader.follow(replace(block, language="sh"))


def test_a_block_that_fails_is_told_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    reader = Reader(tmp_path)
    with pytest.raises(AssertionError, match=re.escape("line 7:\nfalse | true\n")):
        reader.follow(Block("sh", "", "false | true\n", 7))


def test_parameters_that_are_only_shown_are_allowed():
    shown = [block for _, block in ALL if block.language == "yaml" and not block.title]
    assert shown
    for block in shown:
        yaml = YAML(typ="safe", pure=True)
        raw = yaml.load(ROOT / "params.yaml")
        raw["data"] |= yaml.load(block.text)["data"]
        parse_params(raw)


def test_links_out_of_the_site_lead_to_files_of_the_checkout():
    """The strict build sees to the others."""
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(((?:\.\./)+[^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_has_a_place_in_the_navigation():
    (nav,) = (YAML(typ="safe", pure=True).load(ROOT / "mkdocs.yml")["nav"],)
    named = re.findall(r"[\w/-]+\.md", str(nav))
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    # A study's tables are pages of its own report.
    assert sorted(named) == sorted(str(page) for page in pages if "reports" not in page.parts)


def build(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True
    )


def test_the_site_asks_nobody_and_a_broken_link_fails(tmp_path):
    pytest.importorskip("zensical", reason="`make docs` installs it")
    folder = checkout(tmp_path / "tamnas")
    done = build(folder)
    assert done.returncode == 0, done.stdout
    for page in (folder / "site").rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="?([^"\s>]+)', text)
        assert loaded
        assert [address for address in loaded if "//" in address] == [], page
        assert "@import url(http" not in text
    assert "SearchSpace" in (folder / "site" / "api.html").read_text()
    with (folder / "docs" / "index.md").open("a") as file:
        file.write("\n[nowhere](nowhere.md)\n")
    assert build(folder).returncode != 0
