"""Released networks: what is in them, that they compute what the run's networks compute, and what is refused."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tamnas
from tamnas.config.fields import validated
from tamnas.config.images import DataParams
from tamnas.data.loader import load_split
from tamnas.data.prepare import prepare
from tamnas.data.sources import Source
from tamnas.errors import InputError
from tamnas.evaluation.accuracy import accuracy
from tamnas.networks.trained import load_network
from tamnas.pipeline import checkpoint
from tamnas.pipeline.device import Runtime
from tamnas.release.card import MODELS, read_card, released
from tamnas.release.network import images, read
from tamnas.report.collect import collect
from tests.helpers.command import output, refusal
from tests.helpers.tiny import ROOT, ROW, contents

FINAL = {"searched", "finetuned", "lego", "resnet8"}
MIB = 2**20


@pytest.fixture(scope="module")
def models(finished_run, tmp_path_factory) -> Path:
    """The final networks of the finished run, released."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished_run)
        output("release", "--to", folder)
    return folder


@pytest.fixture
def lego(models) -> Path:
    return models / "digits" / "lego.safetensors"


def test_all_final_networks_are_released(models):
    assert {path.stem for path in models.rglob("*.safetensors")} == FINAL
    assert {path.stem for path in models.rglob("*.md")} == FINAL


def test_releasing_again_gives_the_same_bytes(models, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    output("release", "--to", tmp_path)
    assert contents(tmp_path, "digits") == contents(models, "digits")


def test_a_released_network_computes_what_the_runs_does(lego, finished_run, space, monkeypatch):
    monkeypatch.chdir(finished_run)
    card, x = read_card(lego), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    path = Path("runs") / ROW / "legonet" / "lego.safetensors"
    original, _ = load_network(card.search_space, path, card.weights, Runtime(torch.device("cpu")))
    assert torch.equal(tamnas.load(str(lego))(x), original(x))


def test_a_card_says_of_how_many_its_network_is_the_best(models, finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    (row,) = collect()[0].rows
    for name, networks in (("searched", row.scratch), ("finetuned", row.finetune)):
        assert len(networks) > 1
        title = read_card(models / "digits" / f"{name}.safetensors").title
        assert title.startswith(f"by validation the best of {len(networks)} searched subnets, ")


def test_the_card_has_the_runs_figures(lego, finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    (dataset,) = collect()
    card, test = read_card(lego), dataset.best_row.lego.network.test
    figures = {attack: (figure.accuracy, figure.images) for attack, figure in card.by_attack.items()}
    assert figures == {"none": (test.clean, 40)} | {
        attack.text: (share, test.count(attack)) for attack, share in test.grid.items()
    }
    page = lego.with_suffix(".md").read_text(encoding="utf-8")
    assert all(figure.text in page for figure in card.figures)
    for words in ("MIT", "CC BY 4.0", f"{card.macs:,}", str(card.network_spec.architecture), "epochs: 3"):
        assert words in page


def test_the_cards_clean_accuracy_is_that_of_its_images(lego, finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    model, card = read(lego)
    (test,) = images(card, "test")
    assert torch.equal(test.images, load_split(Path("data/digits.npz"), "test").images)
    assert accuracy(model, test) == card.figures[0].accuracy


def test_any_network_of_the_run_can_be_released(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    (dataset,) = collect()
    subnet = dataset.rows[0].finetune[-1]
    output("release", f"{ROW}/{subnet.id}-finetuned", "--to", tmp_path)
    card = read_card(tmp_path / ROW / f"{subnet.id}-finetuned.safetensors")
    assert card.network_spec.architecture == subnet.architecture
    assert card.figures[0].accuracy == subnet.test.clean
    assert f"{ROW}/n99: is no network of this run; there are: " in refusal("release", f"{ROW}/n99")


def test_a_card_says_what_its_network_has_and_no_more(models, lego):
    hand_made, searched = (read_card(models / "digits" / f"{name}.safetensors") for name in ("resnet8", "searched"))
    assert (hand_made.network, hand_made.space) == (None, None)
    assert searched.search_space.blocks
    pages = {name: (models / "digits" / f"{name}.md").read_text(encoding="utf-8") for name in FINAL}
    assert {name for name, page in pages.items() if "- Activation: relu" in page} == FINAL - {"resnet8"}
    assert "fine-tuned with the supernet's weights" in pages["finetuned"]
    assert {name for name, page in pages.items() if "Worst case:" in page} == FINAL - {"finetuned"}


def test_the_images_of_a_plugins_source_have_their_owners_terms(lego, monkeypatch, tmp_path):
    """Who loads the network may not have the plugin."""
    monkeypatch.chdir(tmp_path)
    card = read_card(lego)
    card = card.model_copy(update={"data": card.data | {"source": "stripes"}})
    assert card.terms == Source.terms
    with pytest.raises(InputError, match=r"data/digits\.npz: is missing"):
        images(card, "test")


def test_weights_of_another_run_than_the_results_are_not_released(finished_run, tmp_path, monkeypatch):
    for name in ("results", "plan", "params.yaml"):
        (shutil.copytree if (finished_run / name).is_dir() else shutil.copy)(finished_run / name, tmp_path / name)
    monkeypatch.chdir(finished_run)
    (dataset,) = collect()
    one, other = dataset.rows[0].scratch[:2]
    folder = Path("runs") / ROW / "retrain_scratch"
    (tmp_path / folder).mkdir(parents=True)
    shutil.copy(folder / f"{other.id}.safetensors", tmp_path / folder / f"{one.id}.safetensors")
    monkeypatch.chdir(tmp_path)
    assert "is not the network of results/" in refusal("release", f"{ROW}/{one.id}")


def test_a_study_gives_the_networks_its_name(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    (run,) = collect()
    subnet = f"{ROW}/{run.rows[0].best.id}"
    output("release", "digits/lego", subnet, "--study", "small", "--to", tmp_path)
    names = {read_card(path).name for path in tmp_path.rglob("*.safetensors")}
    assert names == {"small/lego", f"small/{subnet}"}
    assert "--study is ../x; allowed: letters" in refusal("release", "--study", "../x")
    monkeypatch.setattr("tamnas.release.references.run_of", lambda folder: [run, run])
    assert "--study is small: this run has 2 datasets" in refusal("release", "--study", "small")


@pytest.mark.parametrize("name", released())
def test_committed_networks_hold_what_their_cards_say(name, tmp_path, monkeypatch):
    """The digits come from scikit-learn; CIFAR-10 as an npz of its 32x32 images, if $CIFAR10 names one."""
    monkeypatch.chdir(tmp_path)
    model, card = read(released()[name])
    assert card.name == name
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    if card.data["source"] == "npz":
        if "CIFAR10" not in os.environ:
            pytest.skip("needs $CIFAR10, an npz of CIFAR-10")
        data = validated(DataParams, card.data | {"path": os.environ["CIFAR10"]}, name)
        prepare(card.dataset, data, Path("data") / f"{card.dataset}.npz")
    (test,) = images(card, "test")
    assert len(test) == card.images["test"]
    assert accuracy(model, test) == pytest.approx(card.figures[0].accuracy, abs=1e-9)


def test_committed_networks_are_small_and_have_a_card():
    paths = released().values()
    assert paths
    assert max(path.stat().st_size for path in paths) < 1.5 * MIB
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 12 * MIB
    assert {path.with_suffix(".md") for path in paths} == set(MODELS.rglob("*.md"))
    for path in MODELS.rglob("*.md"):
        assert f"# {path.relative_to(MODELS).with_suffix('').as_posix()}\n" in path.read_text(encoding="utf-8")


def test_the_authors_autoattack_takes_a_released_network_as_it_is(lego, finished_run, monkeypatch):
    import pyautoattack

    monkeypatch.chdir(finished_run)
    model, card = read(lego)
    (test,) = images(card, "test")
    right = (model(test.scaled(test.images)).argmax(1) == test.labels).nonzero().squeeze(1)[:8]
    assert len(right)  # else nothing is attacked
    x, y = test.scaled(test.images[right]).contiguous(), test.labels[right]
    attack = pyautoattack.AutoAttack(model, eps=8 / 255, seed=0, version="custom", attacks=["apgd-ce"])
    traced = sys.gettrace()  # the package's check for dynamic defences takes it away
    x_adv, *_ = attack.run_standard_evaluation(x, y)
    sys.settrace(traced)
    assert x_adv.shape == x.shape
    assert 0 < float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6


def changed(lego: Path, target: Path, **card) -> Path:
    """A copy whose card says otherwise, with a good checksum."""
    tensors, meta = checkpoint.load(lego)
    checkpoint.write_weights(target, tensors, {"card": meta["card"] | card})
    return target


ODD = {
    "title": {"title": ""},
    "network, space: an architecture": {"network": None, "space": None},
    "reference: is 'FGSM'": {"reference": "FGSM"},
    "images: test is missing": {"images": {"train": 5}},
    "data.size is None": {"data": {"source": "digits"}},
    "source is 5": {"data": {"source": 5, "size": 8}},
    "needs an architecture or a baseline": {"spec": {"id": "x", "architecture": None, "baseline": None}},
    "baseline 'resnet9'; allowed: resnet18": {"spec": {"id": "x", "architecture": None, "baseline": "resnet9"}},
}


def test_damaged_and_foreign_files_are_one_line(lego, finished_run, tmp_path):
    cut, flipped = tmp_path / "cut.safetensors", tmp_path / "flipped.safetensors"
    blob = lego.read_bytes()
    cut.write_bytes(blob[: len(blob) // 2])
    flipped.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    stage = finished_run / "runs" / ROW / "legonet" / "lego.safetensors"
    fewer = changed(lego, tmp_path / "fewer.safetensors", classes=list("0123456"))
    wrong = changed(lego, tmp_path / "wrong.safetensors", levels=-1)
    shutil.copy(ROOT / "LICENSE", tmp_path / "text.safetensors")
    cases = {
        cut: "is damaged or not a tamnas file",
        flipped: "is damaged: its checksum does not match",
        tmp_path / "none.safetensors": "cannot be read",
        tmp_path / "text.safetensors": "is damaged or not a tamnas file",
        stage: "holds no released network",
        fewer: "has shape (10,); this network's has (7,)",
        wrong: "levels is -1",
        **{changed(lego, tmp_path / f"{words[:4]}.safetensors", **card): words for words, card in ODD.items()},
    }
    for path, words in cases.items():
        with pytest.raises(InputError) as error:
            tamnas.load(str(path))
        assert words in str(error.value)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"is no released network; there are: .*digits/lego"):
        tamnas.load("digits/leg")


def test_other_images_than_the_cards_are_refused(lego, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(finished_run)
    other = changed(lego, tmp_path / "other.safetensors", test_sha256="0" * 64)
    with pytest.raises(InputError, match=r"data/digits\.npz: holds other test images"):
        images(read_card(other), "test")


def test_the_cards_images_in_another_order_are_taken(lego, finished_run, tmp_path, monkeypatch):
    """As those of an archive are beside a study's, which read the same images from elsewhere."""
    with np.load(finished_run / "data" / "digits.npz") as file:
        arrays = dict(file)
    order = np.random.default_rng(0).permutation(len(arrays["y_test"]))
    arrays |= {name: arrays[name][order] for name in ("x_test", "y_test")}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez("data/digits.npz", **arrays)
    (test,) = images(read_card(lego), "test")
    assert test.labels.tolist() == arrays["y_test"].tolist()
    np.savez("data/digits.npz", **arrays | {"y_test": arrays["y_test"][order]})
    with pytest.raises(InputError, match=r"data/digits\.npz: holds other test images"):
        images(read_card(lego), "test")


@pytest.mark.parametrize(("whose", "words"), [("cifar10", "CIFAR-10"), ("svhn-subset", "SVHN"), (None, "owner")])
def test_a_network_of_a_users_own_files_is_used_without_them(lego, tmp_path, monkeypatch, whose, words):
    data = read_card(lego).data | {"source": "npz", "images": whose}
    path = changed(lego, tmp_path / "own.safetensors", data=data)
    monkeypatch.chdir(tmp_path)
    model, card = read(path)
    assert model(torch.rand(1, 3, card.size, card.size)).shape == (1, 10)
    assert words in card.terms
    with pytest.raises(InputError, match=r"data/digits\.npz: is missing"):
        images(card, "test")


def test_public_names_are_typed():
    assert (Path(tamnas.__file__).parent / "py.typed").is_file()
    text = Path(tamnas.__file__).read_text(encoding="utf-8")
    for name in tamnas.__all__[:-1]:
        assert f" import {name} as {name}\n" in text
        assert getattr(tamnas, name).__module__.startswith("tamnas.")
