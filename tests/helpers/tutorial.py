"""The tutorials' Markdown as a reader follows it: its blocks in order, in a checkout with smaller parameters."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from tests.helpers.tiny import ROOT, commit, git, shrink, write_params

LEFT_OUT = "not run by the tests: "
ROWS = 2  # of a study, at most
SHELL = ["bash", "-e", "-u", "-o", "pipefail", "-c"]


@dataclass(frozen=True)
class Block:
    """A block of code: its language (none if indented), text, and first line; `title` as the page shows it."""

    language: str
    title: str
    text: str
    line: int

    @property
    def reason(self) -> str | None:
        """Why no test runs it, if none does."""
        return self.title.removeprefix(LEFT_OUT) if self.title.startswith(LEFT_OUT) else None


def blocks(page: Path) -> list[Block]:
    found = []
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.partition(" ")
            title = rest.removeprefix('title="').removesuffix('"')
            found.append(Block(language, title, token.content, token.map[0] + 1))
    return found


def checkout(folder: Path) -> Path:
    """What git tracks of this checkout, as it is, in a repository of its own; its `.venv` is this interpreter's."""
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(folder / name, (0, 0))  # the environment is newer: `make` finds it ready
    (folder / ".venv").symlink_to(sys.prefix)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".git" / "info" / "exclude").write_text(".venv\n")
    return folder


class Reader:
    """Follows a page in `folder`. With `smaller`, whatever the page makes of params.yaml is shrunk before it runs."""

    def __init__(self, folder: Path, smaller: bool = True):
        self.folder, self.smaller, self._params = folder, smaller, b""
        self._smaller()
        commit(folder, "start")

    def follow(self, block: Block) -> str:
        """Its output. A block that has a file's name for a title goes into that file."""
        if block.title == "params.yaml":
            self._merge(YAML(typ="safe", pure=True).load(block.text))
        elif block.title:
            (self.folder / block.title).write_text(block.text)
        else:
            command = [*SHELL, block.text] if block.language == "sh" else ["python", "-c", block.text]
            done = subprocess.run(
                command, cwd=self.folder, env=self._environment(), text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout[-4000:]}"
            self._smaller()
            return done.stdout
        self._smaller()
        return ""

    def _merge(self, section: dict) -> None:
        yaml, path = YAML(typ="safe", pure=True), self.folder / "params.yaml"
        raw = yaml.load(path)
        for name, entries in section.items():
            raw[name] |= entries
        write_params(self.folder, raw)

    def _smaller(self) -> None:
        path = self.folder / "params.yaml"
        if not self.smaller or path.read_bytes() == self._params:
            return
        raw = YAML(typ="safe", pure=True).load(path)
        rows = raw["run"]["rows"]
        if len(rows) > ROWS:  # of `smoke`, whose sizes are the smallest already
            raw["run"]["rows"] = dict(list(rows.items())[:ROWS])
            raw["run"]["datasets"] = sorted({row["dataset"] for row in raw["run"]["rows"].values()})
        else:
            shrink(raw)
        write_params(self.folder, raw)
        self._params = path.read_bytes()

    def _environment(self) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "PYTHONPATH")}
        names = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.org"}
        names |= {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@example.org"}
        return outer | names | {"PATH": f"{self.folder / '.venv' / 'bin'}{os.pathsep}{outer['PATH']}"}
