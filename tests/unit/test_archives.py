"""CIFAR-10 and SVHN through the prepare stage, as a user runs it, from a mirror on this machine."""

import http.server
import socket
import socketserver
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tamnas.config.fields import validated
from tamnas.config.images import DataParams
from tamnas.data import archives as library
from tamnas.errors import InputError
from tests.helpers import archives
from tests.helpers.tiny import invoke, tiny_params, write_params

FILES = {"cifar10": ["cifar-10-python.tar.gz"], "svhn": ["train_32x32.mat", "test_32x32.mat"]}
COUNTS = {"cifar10": (100, 50), "svhn": (80, 40)}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, address) -> None:
        """torchvision asks twice and reads once; the broken pipe is no news."""


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A web server of the folder tmp_path/mirror; `asked` lists the paths it was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "mirror" / "sets"
    folder.mkdir(parents=True)
    handler = partial(Handler, directory=folder.parent)
    with Server(("127.0.0.1", 0), handler) as server:
        server.asked, server.folder = [], folder
        server.url = f"http://127.0.0.1:{server.server_address[1]}/sets"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fill(source: str, folder: Path, monkeypatch) -> tuple[archives.Images, archives.Images]:
    """Archives of the source in `folder`, in the form in which they are published."""
    if source == "cifar10":
        return archives.cifar10(folder, monkeypatch, packed=True)
    return archives.svhn(folder, monkeypatch)


def run(project: Path, source: str, **data):
    """`python stages/plan.py` and `python stages/prepare.py <source>`."""
    raw = tiny_params()
    raw["data"] = {source: {"source": source, "size": 32, "classes": 10, "validation": 20, **data}}
    raw["run"] = {"datasets": [source], "rows": {f"{source}-base": {"dataset": source, "mode": "base"}}}
    write_params(project, raw)
    assert invoke("plan").exit_code == 0
    return invoke("prepare", source)


def require_exact(project: Path, source: str, train: archives.Images, test: archives.Images) -> None:
    with np.load(project / "data" / f"{source}.npz") as arrays:
        assert [len(arrays[f"y_{split}"]) for split in ("train", "validation", "test")] == [
            COUNTS[source][0] - 20, 20, COUNTS[source][1],
        ]  # fmt: skip
        np.testing.assert_array_equal(arrays["x_test"], test.images)
        np.testing.assert_array_equal(arrays["y_test"], test.labels)
        known = {image.tobytes(): label for image, label in zip(*train, strict=True)}
        for split in ("train", "validation"):
            for image, label in zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True):
                assert known.pop(image.tobytes()) == label
        assert not known


def require_refusal(result, project: Path, source: str, *words: str) -> None:
    assert result.exit_code == 2
    *progress, line = result.stderr.splitlines()  # of a download that came before
    assert not [text for text in progress if any(word in text for word in ("error", "Error", "Traceback"))]
    assert line.startswith(f"error: data.{source}: ")
    for word in words:
        assert word in line
    assert not (project / "data" / f"{source}.npz").exists()
    assert not (project / "results").exists()


@pytest.mark.parametrize("source", list(FILES))
def test_a_folder_with_archives_is_used_as_it_is(source, folder, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    splits = fill(source, shared, monkeypatch)
    assert (splits[0].labels == 0).any()  # SVHN's files label it 10
    before = {path.name: path.read_bytes() for path in shared.iterdir()}
    shared.chmod(0o555)
    result = run(folder, source, path=str(shared))
    assert result.exit_code == 0, result.output
    require_exact(folder, source, *splits)
    assert {path.name: path.read_bytes() for path in shared.iterdir()} == before
    assert set(before) == set(FILES[source])


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("source", list(FILES))
def test_a_mirror_is_asked_once_for_each_archive(source, folder, mirror, monkeypatch, slash):
    splits = fill(source, mirror.folder, monkeypatch)
    result = run(folder, source, url=mirror.url + slash)
    assert result.exit_code == 0, result.output
    require_exact(folder, source, *splits)
    assert set(mirror.asked) == {f"/sets/{file}" for file in FILES[source]}
    raw = folder / "data" / "raw" / source
    assert sorted(path.name for path in raw.iterdir()) == sorted(FILES[source])
    mirror.asked.clear()
    assert run(folder, source, url=mirror.url).exit_code == 0
    assert mirror.asked == []


@pytest.mark.parametrize("source", list(FILES))
def test_a_wrong_checksum(source, folder, mirror, monkeypatch):
    fill(source, mirror.folder, monkeypatch)
    last = FILES[source][-1]
    archives.damage(mirror.folder / last)
    result = run(folder, source, url=mirror.url)
    raw = f"data/raw/{source}"
    require_refusal(result, folder, source, f"{mirror.url}/{last} gave a wrong checksum", last, raw)
    assert not (folder / raw / last).exists()
    assert not list((folder / raw).glob("*.part"))


@pytest.mark.parametrize("source", list(FILES))
def test_an_archive_that_the_mirror_lacks(source, folder, mirror, monkeypatch):
    splits = fill(source, mirror.folder, monkeypatch)
    last = mirror.folder / FILES[source][-1]
    last.rename(mirror.folder / "elsewhere")
    result = run(folder, source, url=mirror.url)
    require_refusal(result, folder, source, "HTTPError: HTTP Error 404", f"put {last.name} (")
    # what the line asks for
    (mirror.folder / "elsewhere").rename(folder / "data" / "raw" / source / last.name)
    assert run(folder, source, url=mirror.url).exit_code == 0
    require_exact(folder, source, *splits)


def test_a_failed_download_keeps_what_lies_there(folder, mirror, monkeypatch):
    fill("svhn", mirror.folder, monkeypatch)
    raw = folder / "data" / "raw" / "svhn"
    raw.mkdir(parents=True)
    (raw / "train_32x32.mat").write_bytes(b"half of a download")
    (mirror.folder / "train_32x32.mat").unlink()
    require_refusal(run(folder, "svhn", url=mirror.url), folder, "svhn", "404", "train_32x32.mat")
    assert (raw / "train_32x32.mat").read_bytes() == b"half of a download"


def test_a_mirror_that_is_not_there(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = run(folder, "cifar10", url=f"http://127.0.0.1:{port}")
    require_refusal(result, folder, "cifar10", "Connection refused", "cifar-10-python.tar.gz")


def test_a_silent_mirror_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(library, "PATIENCE", 0.3)
    before = socket.getdefaulttimeout()
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler, bind_and_activate=True) as server:
        started = time.monotonic()
        result = run(folder, "cifar10", url=f"http://127.0.0.1:{server.server_address[1]}")
    require_refusal(result, folder, "cifar10", "timed out", "cifar-10-python.tar.gz")
    assert time.monotonic() - started < 30
    assert socket.getdefaulttimeout() == before


def test_an_archive_cannot_write_outside_its_folder(folder, tmp_path, monkeypatch):
    import tarfile

    from torchvision.datasets import CIFAR10

    shared = tmp_path / "shared"
    shared.mkdir()
    evil = tmp_path / "evil"
    evil.write_text("out")
    with tarfile.open(shared / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(evil, "../../escaped")
    monkeypatch.setattr(CIFAR10, "tgz_md5", archives.md5(shared / "cifar-10-python.tar.gz"))
    require_refusal(run(folder, "cifar10", path=str(shared)), folder, "cifar10", "cannot be unpacked")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"source": "cifar10", "url": "ftp://example.org"}, "url is 'ftp://example.org'; allowed"),
        ({"source": "svhn", "url": "mirror.example.org/sets"}, "allowed: the web address"),
        ({"source": "svhn", "url": "https://"}, "allowed: the web address"),
        ({"source": "svhn", "url": "https://example.org/?file="}, "allowed: the web address"),
        ({"source": "cifar10", "url": "http://example.org/two words"}, "allowed: the web address"),
        ({"source": "digits", "test": 20, "url": "https://example.org"}, "the source digits downloads nothing"),
        ({"source": "npz", "path": "own.npz", "url": "https://example.org"}, "the source npz downloads nothing"),
    ],
)
def test_refused_addresses(data, words):
    with pytest.raises(InputError, match="url") as caught:
        validated(DataParams, {"validation": 20, **data}, "params.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("url", ["https://example.org", "http://127.0.0.1:8080/sets/", "https://a.b/c/d"])
def test_allowed_addresses(url):
    assert validated(DataParams, {"validation": 20, "source": "svhn", "url": url}, "params.yaml").url == url
