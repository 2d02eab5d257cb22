"""`tamnas predict` and `import-images`: any image a person has, and what is told of it."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from tamnas.config.resolve import load_params
from tamnas.release.predict import LARGEST, smallest_radius
from tests.helpers import archives
from tests.helpers.command import answer, output, refusal, tamnas
from tests.helpers.tiny import contents, tiny_params, write_params

MODEL = ("--model", "digits/lego")


def photo(name: str, *digits: int) -> str:
    """A photo, so to speak, of one of the digits, or of several on top of each other."""
    known = load_digits()
    image = np.mean([known.images[known.target.tolist().index(digit)] for digit in digits], axis=0) * 255 / 16
    Image.fromarray(image.astype(np.uint8)).resize((48, 40), Image.Resampling.BICUBIC).save(name)
    return name


@pytest.fixture
def seven(folder) -> str:
    return photo("seven.png", 7)


def test_an_image_is_classified(seven):
    told = answer("predict", seven, *MODEL)
    (prediction,) = told["predictions"]
    assert prediction["class"] == "7"
    assert 0.9 < prediction["probability"] <= 1
    assert told["notes"] == ["1 of 1 images not square, cropped to the centre square"]
    assert "seven.png  7 " in output("predict", seven, *MODEL)


def test_robustness_is_a_radius(seven):
    plain, unclear = answer("predict", seven, photo("both.png", 7, 0), *MODEL, "--robustness")["predictions"]
    assert 0 < Fraction(unclear["changes_at"]) <= Fraction(LARGEST, 255)
    assert plain["changes_at"] is None or Fraction(plain["changes_at"]) > Fraction(unclear["changes_at"])


class Linear(nn.Module):
    """Two logits, +-(sum of weights * pixels - 1): an eps-box changes the answer from |sum - 1| / |weights|_1 on."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.classes = nn.Linear(weights.numel(), 2)
        with torch.no_grad():
            self.classes.weight.copy_(torch.stack([weights.flatten(), -weights.flatten()]))
            self.classes.bias.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, x):
        return self.classes(x.flatten(1))


@pytest.mark.parametrize("margin", [-0.11, -0.03, 0.01, 0.05, 0.2])
def test_the_radius_of_a_linear_network_is_the_exact_one(margin):
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(3, 4, 4, generator=generator)  # the box stays within [0, 1]
    weights = torch.rand(3, 4, 4, generator=generator)
    weights *= (1 + margin) / (weights * x).sum()
    model = Linear(weights).eval()
    exact = float((weights * x).sum() - 1) / float(weights.sum())
    label = model(x[None]).argmax(1)[0]
    assert label == (exact < 0)
    assert smallest_radius(model, x, label) == Fraction(math.ceil(abs(exact) * 255), 255)


def test_what_no_attack_changes_has_no_radius():
    assert smallest_radius(Linear(torch.zeros(3, 4, 4)).eval(), torch.full((3, 4, 4), 0.5), torch.tensor(1)) is None


def test_what_is_no_image_or_no_network_is_one_line(seven):
    with open("text.png", "w") as file:
        file.write("no image")
    assert "text.png: is not a readable image" in refusal("predict", seven, "text.png", *MODEL)
    assert "digits/leg: is no released network" in refusal("predict", seven, "--model", "digits/leg")
    result = tamnas("predict", "none.png", *MODEL)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "none.png' does not exist" in result.stderr


def test_a_folder_is_checked_as_a_run_would_read_it(folder):
    archives.image_folder(folder / "my set", 20)
    (folder / "my set" / "a" / "notes.txt").write_text("left out")
    before = contents(folder, "my set")
    told = answer("import-images", "my set", "--size", 8)
    section = {
        "source": "imagefolder", "path": "my set", "size": 8, "classes": 3, "validation": 6, "test": 6,
    }  # fmt: skip
    assert told["params"] == {"my-set": section}
    assert {split: part["images"] for split, part in told["card"]["splits"].items()} == {
        "train": 48, "validation": 6, "test": 6,
    }  # fmt: skip
    assert told["card"]["notes"] == ["left out: 1 file of suffix .txt, such as a/notes.txt"]
    text = output("import-images", "my set", "--size", 8)
    assert "my-set: 3 classes, a, b, c" in text
    assert told["card"]["notes"][0] in text
    assert contents(folder, "my set") == before
    assert [path.name for path in folder.iterdir()] == ["my set"]
    raw = tiny_params()  # the section is one that a run takes
    raw["data"]["my-set"] = section
    write_params(folder, raw)
    assert load_params().data["my-set"].classes == 3


def test_a_folder_with_splits_keeps_them(folder):
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        archives.image_folder(folder / "set" / split, count, seed=count)
    told = answer("import-images", "set", "--size", 8)
    assert {split: part["images"] for split, part in told["card"]["splits"].items()} == {
        "train": 18, "validation": 6, "test": 9,
    }  # fmt: skip
    assert not {"validation", "test"} & told["params"]["set"].keys()


def test_what_a_run_would_refuse_is_one_line(folder):
    archives.image_folder(folder / "set", 8)
    (folder / "set" / "b" / "broken.png").write_bytes(b"\x89PNG")
    assert "broken.png: is not a readable image" in refusal("import-images", "set", "--size", 8)
    assert "validation is 1; allowed: 3 to" in refusal("import-images", "set", "--validation", 1, "--test", 3)
    (folder / "empty").mkdir()
    assert "holds no folder of a class" in refusal("import-images", "empty")
