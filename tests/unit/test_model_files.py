"""`tamnas evaluate`: models and images from files, and the command."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import tamnas
from tamnas.attacks.listed import EvalPgd, Square
from tamnas.cli.evaluate import evaluate as command
from tamnas.data.evaluated import read_images
from tamnas.errors import InputError
from tamnas.evaluation.attacked import balanced
from tamnas.evaluation.models import read_model
from tests.helpers import archives
from tests.helpers.attacked import SIZE, first_wrong, trained_network

EPS = Fraction(16, 255)
X, Y = first_wrong(24, 1000)
IMAGES = (np.arange(4 * SIZE * SIZE * 3) % 256).reshape(4, SIZE, SIZE, 3).astype(np.uint8)


class Constant(nn.Module):
    def forward(self):
        return torch.zeros(1, 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The network in every format."""
    folder, model = tmp_path_factory.mktemp("models"), trained_network()
    torch.jit.script(model).save(folder / "script.pt")
    torch.jit.freeze(torch.jit.script(model)).save(folder / "frozen.pt")
    torch.save(model.state_dict(), folder / "pickle.pt")
    batch = torch.export.Dim("batch")
    for name, shapes in (("any", ({0: batch},)), ("five", None)):
        program = torch.export.export(nn.Sequential(*model), (X[:5],), dynamic_shapes=shapes and ({0: batch},))
        torch.export.save(program, folder / f"{name}.pt2")
    torch.export.save(torch.export.export(Constant(), ()), folder / "nothing.pt2")
    (folder / "damaged.pt2").write_bytes((folder / "any.pt2").read_bytes()[:-500])
    (folder / "damaged.onnx").write_bytes(b"\x08\x07nothing")
    np.savez(folder / "tall.npz", x_test=np.zeros((4, 16, 8, 3), np.uint8), y_test=np.arange(4))
    np.savez(folder / "words.npz", x_test=IMAGES, y_test=["cat"] * 4)
    np.savez(folder / "scalar.npz", x_test=IMAGES, y_test=3)
    np.savez(folder / "images.npz", x_test=X.permute(0, 2, 3, 1).numpy(), y_test=Y.numpy())
    (folder / "own.py").write_text(
        "from tests.helpers.attacked import trained_network\nmodel = trained_network()\nthree = lambda: 3\n"
        "def fails():\n    raise KeyError('weights')\n"
    )
    return folder


@pytest.mark.parametrize("name", ["script.pt", "frozen.pt", "any.pt2", "five.pt2"])
def test_files_give_the_same_logits_and_gradients(files, name):
    model, expected = read_model(str(files / name)), trained_network()
    for count in (1, 5, 12):
        x = X[:count].clone().requires_grad_(True)
        logits = model(x)
        assert torch.allclose(logits, expected(x), atol=1e-5)
        (slope,) = torch.autograd.grad(logits[:, 0].sum(), x, retain_graph=True)
        (true,) = torch.autograd.grad(expected(x)[:, 0].sum(), x)
        assert torch.allclose(slope, true, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 5])
def test_onnx_gives_the_same_logits_and_no_gradients(tmp_path, batch):
    pytest.importorskip("onnxruntime")
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(nn.Sequential(*trained_network()), (X[:5],), dynamic_shapes=shapes)
    torch.onnx.export(program, f=tmp_path / "model.onnx", dynamo=True, verbose=False, external_data=False)
    model = read_model(str(tmp_path / "model.onnx"))
    for count in (1, 5, 12):
        assert torch.allclose(model(X[:count]), trained_network()(X[:count]), atol=1e-5)
    found = tamnas.evaluate(model, X, Y, ["autoattack:16/255"])
    assert [one.attack.kind for one in found.attacks] == ["square"]
    assert found.notes[0] == "AutoAttack at 16/255: the model gives no gradients; of it Square alone ran."


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("pickle.pt", "is no TorchScript file"),
        ("damaged.pt2", "cannot be read as a torch.export file"),
        ("nothing.pt2", "takes 0 inputs; allowed: images alone"),
        ("damaged.onnx", "cannot be read as ONNX"),
        ("missing.pt", "there is no such file"),
        ("model.h5", "allowed: a released network, package.module:function"),
        ("own:three", "gave int; allowed: a torch.nn.Module"),
        ("own:fails", "KeyError: 'weights' (own.py, line 5)"),
        ("own:nothing", "AttributeError"),
        ("nowhere:model", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_models_that_cannot_be_read(files, monkeypatch, reference, words):
    if reference.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    with pytest.raises(InputError) as error:
        read_model(reference)
    assert words in str(error.value)
    assert str(error.value).startswith(f"model {reference}: ")


def run_command(folder: Path, *args: str):
    return CliRunner().invoke(command, ["--checkpoints", str(folder / "kept"), "--device", "cpu", *args])


def test_the_command_prints_a_table_and_json(files, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    args = ("own:model", "--data", "images.npz", "--attacks", "square:16/255,pgd:16/255:steps=2")
    args += ("--images", "12", "--batch-size", "6", "--seed", "2")
    shown, plain = run_command(tmp_path, *args), run_command(tmp_path, *args, "--json")
    assert (shown.exit_code, plain.exit_code) == (0, 0), shown.output + plain.output
    attacks = [Square(eps=EPS, images=12, batch_size=6), EvalPgd(eps=EPS, steps=2, images=12, batch_size=6)]
    images, labels, _ = read_images("images.npz")
    expected = tamnas.evaluate(trained_network(), images, labels, attacks, batch_size=6, seed=2)
    assert expected.text in shown.stdout
    found = json.loads(plain.stdout)
    assert found == {"model": "own:model", "data": "images.npz", **expected.plain()}
    chosen = balanced(Y, 12)
    assert found["attacks"][0]["clean"]["correct"] == int((trained_network()(X).argmax(1) == Y)[chosen].sum())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("own:model", "--data", "none.npz"), "data none.npz: allowed: an npz, a folder, a prepared dataset"),
        (("own:model", "--data", "images.npz", "--attacks", "foo:8/255"), "no such attack"),
        (("own:model", "--data", "images.npz", "--device", "tpu"), "--device: device is 'tpu'"),
        (("own:fails", "--data", "images.npz"), "KeyError"),
        (("own:model", "--data", "images.npz", "--images", "25"), "images is 25; there are 24 test images"),
        (("own:model",), "Missing option '--data'"),
        (("cifar10-cpu/lego", "--data", "images.npz"), "images are of 8x8 pixels; cifar10-cpu/lego takes 32x32"),
        (("digits/lego", "--data", "tall.npz"), "images are of 16x8 pixels; digits/lego takes 8x8"),
        (("own:model", "--data", "words.npz"), "y_test: <U3 of shape (4,); allowed: one integer for each of 4 images"),
        (("own:model", "--data", "scalar.npz"), "y_test: int64 of shape (); allowed: one integer for each of 4 images"),
    ],
    ids=str,
)
def test_the_command_ends_with_one_line_and_exit_code_2(files, monkeypatch, tmp_path, args, words):
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    found = run_command(tmp_path, *args)
    assert found.exit_code == 2
    assert words in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x_test": IMAGES}, IMAGES / 255),
        ({"test_images": IMAGES[..., :1]}, IMAGES[..., :1] / 255),
        ({"x_test": IMAGES[..., 0]}, IMAGES[..., :1] / 255),
        ({"x_test": IMAGES / np.float32(255)}, IMAGES / 255),
        ({"x_test": (IMAGES / np.float32(255)).transpose(0, 3, 1, 2)}, IMAGES / 255),
        ({"x_test": IMAGES / 255 / 3}, IMAGES / 255 / 3),  # not rounded to 8 bits
    ],
    ids=["uint8", "medmnist", "grey", "floats", "channels first", "fine"],
)
@pytest.mark.parametrize("labels", [np.arange(4), np.arange(4)[:, None], np.eye(4, dtype=int)], ids=["", "col", "hot"])
def test_images_of_an_npz(tmp_path, arrays, expected, labels):
    name = "test_labels" if "test_images" in arrays else "y_test"
    np.savez(tmp_path / "images.npz", **arrays, **{name: labels})
    images, found, _ = read_images(str(tmp_path / "images.npz"))
    assert images.dtype == np.float32
    assert np.allclose(images, expected.transpose(0, 3, 1, 2), atol=1e-7)
    assert found.tolist() == [0, 1, 2, 3]


def write_classes(folder: Path, first: int = 0) -> None:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        Image.fromarray(IMAGES[label + first]).save(folder / name / "1.png")


def test_images_of_a_folder_and_of_its_test_split(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", first=2)
    for place, first in ((tmp_path, 2), (tmp_path / "train", 0)):
        images, labels, notes = read_images(str(place))
        assert np.allclose(images, IMAGES[first : first + 2].transpose(0, 3, 1, 2) / 255)
        assert labels.tolist() == [0, 1]
        assert notes[0] == "2 images of 2 classes at 8x8 pixels, the size of the first."
    known = ("bird", "cat", "cow", "dog")
    assert read_images(str(tmp_path), known)[1].tolist() == [1, 3]
    assert read_images(str(tmp_path), ("Katze", "Hund"))[1].tolist() == [0, 1]
    with pytest.raises(InputError, match=r"has the classes cat, dog; the model tells apart cat, cow, ape$"):
        read_images(str(tmp_path), ("cat", "cow", "ape"))
    np.savez(tmp_path / "train.npz", x_train=IMAGES, y_train=np.arange(4))
    with pytest.raises(InputError, match="needed: x_test with y_test or test_images with test_labels"):
        read_images(str(tmp_path / "train.npz"))


def test_a_folder_of_the_test_split_alone(tmp_path):
    write_classes(tmp_path / "set" / "test")
    images, labels, _ = read_images(str(tmp_path / "set"))
    assert (len(images), labels.tolist()) == (2, [0, 1])
    write_classes(tmp_path / "set" / "val")
    assert read_images(str(tmp_path / "set"))[1].tolist() == [0, 1]
    write_classes(tmp_path / "other" / "train")
    with pytest.raises(InputError, match=r"has train/ but no test/$"):
        read_images(str(tmp_path / "other"))


def test_a_prepared_dataset_is_one_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "photos.npz", x_test=IMAGES, y_test=np.arange(4))
    assert len(read_images("photos")[1]) == 4
    write_classes(tmp_path / "photos")
    np.savez(tmp_path / "photos.npz", x_test=IMAGES, y_test=np.arange(4))
    for place in ("./photos", "photos/", str(tmp_path / "photos")):
        assert len(read_images(place)[1]) == 2
    with pytest.raises(InputError, match=r"is photos here and data/photos.npz, too; give ./photos or data/photos.npz"):
        read_images("photos")


def test_of_a_prepared_file_the_test_split_alone_is_read(tmp_path):
    path, unreadable = tmp_path / "photos.npz", np.array([None])  # would need pickle
    arrays = {"x_test": IMAGES // 16, "y_test": np.arange(4), "levels": 16}
    arrays |= {"x_train": unreadable, "y_train": unreadable}
    np.savez(path, **arrays, format=1)
    images, labels, _ = read_images(str(path))
    assert np.allclose(images, (IMAGES // 16 / 16).transpose(0, 3, 1, 2), atol=1e-7)
    assert labels.tolist() == [0, 1, 2, 3]
    np.savez(path, **arrays, format=99)
    with pytest.raises(InputError, match="format 99 is of a newer tamnas"):
        read_images(str(path))


def test_an_npz_of_ones_own_may_hold_levels(tmp_path):
    np.savez(tmp_path / "images.npz", x_test=IMAGES, y_test=np.arange(4), levels=np.zeros((4, 2)))
    assert np.allclose(read_images(str(tmp_path / "images.npz"))[0], (IMAGES / 255).transpose(0, 3, 1, 2), atol=1e-7)


def test_an_npz_without_images(tmp_path):
    np.savez(tmp_path / "images.npz", x_test=np.float32(1), y_test=np.arange(4))
    with pytest.raises(InputError, match="x_test"):
        read_images(str(tmp_path / "images.npz"))


def test_names_of_an_npz_are_those_of_the_model(tmp_path):
    np.savez(tmp_path / "images.npz", x_test=IMAGES, y_test=[0, 1, 1, 0], classes=["dog", "cat"])
    assert read_images(str(tmp_path / "images.npz"), ("cat", "cow", "dog"))[1].tolist() == [2, 0, 0, 2]
    assert read_images(str(tmp_path / "images.npz"), ("Katze", "Hund"))[1].tolist() == [0, 1, 1, 0]
    for known in (("cat", "cow", "ape"), ("cat", "cow")):
        with pytest.raises(InputError, match=rf"has the classes dog, cat; the model tells apart {', '.join(known)}$"):
            read_images(str(tmp_path / "images.npz"), known)


@pytest.mark.parametrize("dataset", ["cifar10", "svhn"])
def test_the_archives_are_downloaded_datasets(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    _, test = getattr(archives, dataset)(tmp_path / "data" / "raw" / dataset, monkeypatch)
    images, labels, _ = read_images(dataset)
    assert np.array_equal(images, (test.images / np.float32(255)).astype(np.float32).transpose(0, 3, 1, 2))
    assert np.array_equal(labels, test.labels)


def test_a_released_network_takes_grey_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey = IMAGES[..., 0]
    np.savez(tmp_path / "grey.npz", x_test=grey, y_test=np.arange(4))
    np.savez(tmp_path / "colour.npz", x_test=np.repeat(grey[..., None], 3, 3), y_test=np.arange(4))
    args = "digits/lego", "--attacks", "pgd:8/255:steps=2", "--json", "--data"
    one, other = (json.loads(run_command(tmp_path, *args, name).stdout) for name in ("grey.npz", "colour.npz"))
    assert one | {"data": None} == other | {"data": None}
