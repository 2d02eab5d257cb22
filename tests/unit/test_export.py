"""Exported networks: other runtimes give PyTorch's answers, without torch, and what is not so is not kept."""

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tamnas.errors import InputError
from tamnas.export import check, formats
from tamnas.release.network import images, read
from tests.helpers.attacked import fewer_queries
from tests.helpers.command import answer, refusal, tamnas
from tests.helpers.tiny import ROW, copy_of

# An environment of its own has it, as it wants older test tools than requirements.lock has (docs/tutorials/export.md).
needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="needs ExecuTorch")
WITHOUT_TORCH = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
logits = session.run(None, {"images": np.load(sys.argv[2])})[0]
print(json.dumps({"logits": logits.tolist(), "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory) -> Path:
    """A folder with the tiny run's data and two of its networks, released into models/."""
    folder = tmp_path_factory.mktemp("run")
    copy_of(finished_run, folder, "data", "runs", "results", "plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert tamnas("release", "digits/lego", "digits/resnet8").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def here(run, monkeypatch):
    monkeypatch.chdir(run)
    fewer_queries(monkeypatch, 50)


def released(name: str) -> Path:
    return Path("models", "digits", f"{name}.safetensors")


@cache
def exported(name: str, *options: str) -> dict:
    """What the command says; an export is made once."""
    return answer("export", released(name), "--format", *options, "--images", 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lego", ["onnx"]),
        ("lego", ["onnx", "--int8"]),
        ("lego", ["pt2"]),
        ("resnet8", ["onnx"]),
        pytest.param("lego", ["executorch"], marks=needs_executorch),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_an_exported_network_is_checked_against_pytorch(name, options):
    told = exported(name, *options)
    _, card = read(released(name))
    (test,) = images(card, "test")
    file = Path(told["file"])
    assert (
        file.name
        == f"digits-{name}"
        + {"onnx": ".onnx", "pt2": ".pt2", "--int8": ".int8.onnx", "executorch": ".pte"}[options[-1]]
    )
    assert told["size"] == file.stat().st_size
    assert told["compared"] == len(test) == 40
    exact = "--int8" not in options
    assert told["difference"] <= 1e-4 if exact else told["difference"] > 0
    assert told["agreement"] == 1 if exact else told["agreement"] > 0.7
    clean, transfer, square = told["figures"]
    assert clean["original"]["accuracy"] == card.figures[0].accuracy
    again = formats.read(file)
    with torch.no_grad():
        answers = torch.cat([again(x).argmax(1) for x in test.scaled(test.images).split(7)])  # any number of images
    assert clean["exported"]["accuracy"] == pytest.approx(float((answers == test.labels).float().mean()))
    assert transfer["original"]["accuracy"] <= clean["original"]["accuracy"]
    assert square["original"] is None
    assert square["exported"]["images"] == 10
    assert told["milliseconds"] > 0
    page = Path(f"{file}.md").read_text(encoding="utf-8")
    for words in ("PGD-10 at 8/255, made on the original", "Square at 8/255", "CC BY 4.0", f"{told['size']:,} bytes"):
        assert words in page


@pytest.mark.parametrize("options", [["onnx"], ["onnx", "--int8"]], ids=" ".join)
def test_onnx_files_run_where_there_is_no_torch(options, tmp_path):
    file = exported("lego", *options)["file"]
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", x.numpy())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, file, str(tmp_path / "x.npy")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert not told["torch"]
    with torch.no_grad():
        expected = read(released("lego"))[0](x)
    np.testing.assert_allclose(told["logits"], expected, atol=1e-4 if options == ["onnx"] else 0.5)


def test_an_onnx_file_names_no_path_of_this_machine():
    file = Path(exported("lego", "onnx")["file"])
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()


def test_a_network_that_computes_something_else_is_not_kept(monkeypatch, tmp_path):
    class Shifted(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x) + 1e-3

    load = formats.read
    monkeypatch.setattr(formats, "read", lambda path: Shifted(load(path)))
    result = tamnas("export", released("lego"), "--format", "pt2", "--to", tmp_path)
    assert result.exit_code == 1
    assert "logits are up to 0.001 from PyTorch's" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_square_attacks_the_exported_network_itself():
    """One that answers all images alike has nothing to lose, one that hangs on a pixel loses all."""
    model, card = read(released("lego"))
    (test,) = images(card, "test")

    class Pixel(nn.Module):
        def forward(self, x):
            right = (x[:, :, 0, 0].sum(1) - self.level).abs() < 1e-6
            return nn.functional.one_hot(torch.where(right, self.label, (self.label + 1) % 10), 10).float()

    network = Pixel()
    network.level, network.label = test.scaled(test.images)[:1, :, 0, 0].sum(), test.labels[:1]
    done = check.check(model, network, released("lego"), test, 10, exact=False)
    clean, square = (done.figures[index][1] for index in (0, 2))
    assert clean.accuracy > square.accuracy == 0


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", pytest.param(".pte", marks=needs_executorch)])
def test_damaged_exported_files_are_one_line(tmp_path, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=rf"damaged\{suffix}: cannot be read"):
        formats.read(path)


def test_wrong_usage_is_one_line(monkeypatch):
    assert "--int8: goes with --format onnx; here it is pt2" in refusal("export", "x", "--format", "pt2", "--int8")
    assert "digits/leg: is no released network" in refusal("export", "digits/leg", "--format", "onnx")
    weights = Path("runs") / ROW / "legonet" / "lego.safetensors"
    assert "holds no released network" in refusal("export", weights, "--format", "onnx")
    assert tamnas("export", "digits/lego", "--format", "tflite").exit_code == 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = refusal("export", released("lego"), "--format", "onnx")
    assert "onnxruntime is not installed; `pip install '.[export]'`" in said


def test_without_its_images_a_network_is_not_exported():
    """The committed networks' digits are another draw than those of data/ here."""
    assert "data/digits.npz: holds other test images" in refusal("export", "digits/lego", "--format", "pt2")
