"""Nothing read can execute, nothing is written outside, and no connection is opened unasked."""

import ast
import os
import re
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from tests.helpers import archives
from tests.helpers.tiny import ROOT, refuse_connections, tiny_params, write_params

SOURCES = sorted([*(ROOT / "tamnas").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])

# What can run code from a file or a string, as module or as call; and what opens connections.
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml",
    "socket", "ssl", "requests", "urllib", "urllib3", "httpx", "aiohttp", "ftplib", "telnetlib", "http",
}  # fmt: skip
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "os.system", "os.popen"}
FORBIDDEN_METHODS = {"load_state_dict_from_url", "read_pickle", "to_pickle"}
# The error types and the patience of a download that was asked for; whether the cluster that was asked for answers.
ALLOWED = {
    ("tamnas/data/archives.py", "http"), ("tamnas/data/archives.py", "socket"),
    ("tamnas/pipeline/ray_jobs.py", "socket"),
}  # fmt: skip


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def called(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call whose function is named."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reader_that_can_execute(path):
    tree = ast.parse(path.read_text())
    own = str(path.relative_to(ROOT))
    assert {name for name in imported(tree) & FORBIDDEN_MODULES if (own, name) not in ALLOWED} == set()
    for name, call in called(tree):
        assert name not in FORBIDDEN_NAMES | FORBIDDEN_CALLS, name
        assert name.rpartition(".")[2] not in FORBIDDEN_METHODS, name
        if name in ("np.load", "numpy.load"):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("allow_pickle") == "False", name
        if name == "YAML":  # typ="unsafe" constructs objects
            assert all("unsafe" not in ast.unparse(keyword.value) for keyword in call.keywords), name


def test_the_search_for_readers_finds_them():
    tree = ast.parse("import pickle\nfrom urllib import request\nx = torch.load(f)\nnp.load(f)\neval('1')")
    assert imported(tree) & FORBIDDEN_MODULES == {"pickle", "urllib"}
    assert [name for name, _ in called(tree)] == ["torch.load", "np.load", "eval"]


def test_shipped_files_hold_no_pickle():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [name for name in files if re.search(r"\.(pkl|pickle|pt|pth|joblib|bin|npy)$", name)] == []


@pytest.mark.parametrize("key", ["run.rows", "modes"])
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "a.b", "..", ""])
def test_names_cannot_leave_their_folder(key, name):
    from tamnas.config.resolve import parse_params
    from tamnas.errors import InputError

    raw = tiny_params()
    named = raw["modes"] if key == "modes" else raw["run"]["rows"]
    named[name] = {} if key == "modes" else {"dataset": "digits", "mode": "base"}
    with pytest.raises(InputError, match=re.escape(f"{key}.{name}")):
        parse_params(raw)


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit(f"a connection was opened: {args}")
for name in ("connect", "connect_ex", "bind", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


def test_the_sockets_of_the_finished_run_refuse(monkeypatch):
    """`tests.helpers.tiny.finish_run` makes a whole run with them."""
    refuse_connections(monkeypatch)
    with pytest.raises(AssertionError, match="a connection was opened"):
        urllib.request.urlopen("http://localhost:9")


@pytest.mark.slow
def test_no_process_of_a_run_opens_a_connection(tmp_path):
    """The whole pipeline with sockets that refuse, on less than tiny settings: every stage counts, no result."""
    raw = tiny_params()
    raw["supernet"]["block"]["epochs"] = raw["supernet"]["joint"]["epochs"] = 1
    raw["supernet"]["schedule"]["warmup"] = 0
    raw["search"].update(population=3, offspring=3, generations=1)
    raw["retrain"]["max_subnets"] = 1
    for recipe in (raw["retrain"]["scratch"], raw["retrain"]["finetune"], raw["baselines"]["training"]):
        recipe.update(epochs=2)
    write_params(tmp_path, raw)
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    done = subprocess.run(
        [sys.executable, "-m", "tamnas", "run"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "reports" / "index.html").exists()


def test_the_block_on_connections_works(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    code = "import urllib.request; urllib.request.urlopen('http://localhost:9')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert "a connection was opened" in done.stderr


def test_every_dependency_is_pinned():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+( ; .+)?", line)] == []


def test_npz_objects_are_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    from tamnas.config.images import DataParams
    from tamnas.data.prepare import prepare
    from tamnas.errors import InputError

    archives.npz(tmp_path / "own.npz", x_train=np.array([Bomb()], dtype=object))
    data = DataParams(source="npz", path=str(tmp_path / "own.npz"), size=8, classes=3, validation=12)
    with pytest.raises(InputError, match="without pickle"):
        prepare("set", data, tmp_path / "out.npz")
    assert not (tmp_path / "executed").exists()
