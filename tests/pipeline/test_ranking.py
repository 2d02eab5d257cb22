"""The stage `ranking` after a tiny run: what it measures is what the search measured, and is not measured twice."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import tamnas.search.ranking
from tamnas.attacks.ascent import pgd
from tamnas.config.compute import load_compute
from tamnas.config.images import AugmentParams
from tamnas.config.plan import RankingStagePlan, RecalibrationParams
from tamnas.data.loader import Split
from tamnas.evaluation.accuracy import fast_copy
from tamnas.files import read_json
from tamnas.networks.batchnorm import recalibrate
from tamnas.search.fitness import calibration_batches, load_context
from tamnas.search.recalibration import RECALIBRATIONS, recalibrations
from tamnas.space.architecture import Architecture
from tests.helpers.tiny import ROW, contents, copy_of, invoke, result_of, run_here, tiny_params, write_params


@pytest.fixture
def copy(finished_run, tmp_path, monkeypatch):
    copy_of(finished_run, tmp_path, "plan", "code", "data", "runs", "results", ".checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / "digits" / "ranking" / ROW / "inherited.csv")


def test_every_network_trained_from_scratch_under_every_recalibration(finished_run):
    found = table(finished_run)
    records = [
        *result_of(finished_run, "retrain_scratch", "validation.json")["networks"],
        *result_of(finished_run, "legonet", "validation.json")["networks"],
    ]
    distinct = {str(Architecture.from_plain(one["architecture"])): one for one in reversed(records)}
    assert set(found.architecture) == set(distinct)
    assert (found.groupby("architecture", sort=False).recalibration.agg(tuple) == RECALIBRATIONS).all()
    for line in found.itertuples():
        record = distinct[line.architecture]
        assert (line.network, line.parameters) == (record["id"], record["parameters"])
        assert (line.trained_clean, line.trained_robust) == (record["best"]["clean"], record["best"]["robust"])


def test_recalibrated_on_clean_images_it_is_what_the_search_saw(finished_run):
    selected = read_json(finished_run / "results" / "digits" / "select" / ROW / "selected.json")["networks"]
    found = table(finished_run)
    clean = found[found.recalibration == "clean"].set_index("network")
    for one in selected:
        assert tuple(clean.loc[one["id"], ["inherited_clean", "inherited_robust"]]) == (one["clean"], one["robust"])


def test_recalibrations_are_of_the_images_that_they_are_named_after(copy):
    plan = RankingStagePlan.load(ROW, "ranking")
    paths = copy / "runs" / ROW / "joint.safetensors", copy / "data" / "digits.npz"
    context = load_context(plan, *paths, load_compute())
    arch = context.supernet.space.decode([0] * 2 * len(context.supernet.space.layers))
    batches = list(calibration_batches(context))
    statistics, first = {}, None
    for name, subnet in recalibrations(context.supernet.extract(arch).eval(), batches, plan.search.attack):
        statistics[name] = subnet.rest.norm.running_mean.clone()
        assert first in (None, subnet)
        assert not any(module.training for module in subnet.modules())
        first = subnet
    means = torch.stack([subnet.first_layer(x).mean((0, 2, 3)) for x, _ in batches]).mean(0)
    assert torch.allclose(statistics["clean"], means, atol=1e-5)
    assert torch.equal(statistics["none"], context.supernet.rest.norm.running_mean)
    assert torch.allclose(statistics["mixed"], (statistics["clean"] + statistics["adversarial"]) / 2, atol=1e-6)
    # An attack within eps moves what the stem sees by no more than eps times its weights' sums.
    reach = float(plan.search.attack.eps) * subnet.first_layer.weight.abs().sum((1, 2, 3))
    moved = (statistics["adversarial"] - statistics["clean"]).abs()
    assert (moved <= reach).all()
    assert moved.max() > 0
    by_hand = context.supernet.extract(arch).eval()
    recalibrate(by_hand, (x for x, _ in batches))  # the attack is on the subnet with statistics of its own
    how = {"eps": float(plan.search.attack.eps), "step_size": float(plan.search.attack.step_size)}
    twin = fast_copy(by_hand)
    recalibrate(
        by_hand, [pgd(twin, *one, steps=plan.search.attack.steps, random_start=False, **how) for one in batches]
    )
    assert torch.equal(statistics["adversarial"], by_hand.rest.norm.running_mean)


def test_calibration_images_are_augmented_as_in_training():
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    known = {image.numpy().tobytes() for image in images}

    def drawn(**augment) -> list[bool]:
        plan = SimpleNamespace(
            seed=0, name="row", batch_size=8, augment=AugmentParams(**augment),
            search=RecalibrationParams(bn_calibration_images=16),
        )  # fmt: skip
        context = SimpleNamespace(plan=plan, train=Split(images, torch.arange(40) % 10, 255))
        pixels = torch.cat([x for x, _ in calibration_batches(context)]).mul(255).round().to(torch.uint8)
        assert len(pixels) == 16
        return [image.contiguous().numpy().tobytes() in known for image in pixels]

    assert all(drawn(pad=0, flip=False))
    assert not any(drawn(pad=4, flip=True)[:4])


def test_without_calibration_images_statistics_are_those_inherited(copy, monkeypatch):
    raw = tiny_params()
    raw["search"]["bn_calibration_images"] = 0
    write_params(copy, raw)
    invoke("plan")
    before = table(copy)
    assert invoke("ranking", ROW).exit_code == 0
    expected = before[before.recalibration == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table(copy), expected)


def test_a_killed_stage_measures_only_what_is_left(copy, monkeypatch):
    expected, folder = contents(copy, "results/digits/ranking"), copy / ".checkpoints" / "ranking"
    kept = sorted(folder.rglob("*.json"))
    assert len(kept) == table(copy).architecture.nunique()
    kept[0].write_text(kept[0].read_text()[:-9])  # cut short by a kill
    kept[1].unlink()
    measured = []
    original = tamnas.search.ranking.recalibrations
    monkeypatch.setattr(tamnas.search.ranking, "recalibrations", lambda *given: measured.append(1) or original(*given))
    assert invoke("ranking", ROW).exit_code == 0
    assert len(measured) == 2
    assert contents(copy, "results/digits/ranking") == expected


@pytest.mark.slow
def test_another_trained_network_leaves_the_others_as_measured(copy, monkeypatch):
    raw = tiny_params()
    raw["controls"]["random_networks"] = True
    write_params(copy, raw)
    before = table(copy)
    measured = []
    original = tamnas.search.ranking.recalibrations
    monkeypatch.setattr(tamnas.search.ranking, "recalibrations", lambda *given: measured.append(1) or original(*given))
    run_here(copy, "plan", "controls", "ranking")
    found = table(copy)
    pd.testing.assert_frame_equal(found[: len(before)], before)
    assert len(measured) == len(found) // 4 - len(before) // 4 == 3
    assert set(found.network[len(before) :]) == {f"random-{name}" for name in before.network if name != "lego"}
    # Networks trained otherwise say nothing of this recipe.
    raw["controls"].update(random_networks=False, finetune_lr=[0.01], common_attack={"eps": "4/255", "attack_steps": 2})
    write_params(copy, raw)
    run_here(copy, "plan", "controls", "ranking")
    pd.testing.assert_frame_equal(table(copy), before)


def test_the_reports_show_it(finished_run):
    text = (finished_run / "reports" / "README.md").read_text()
    assert "Does the supernet predict? digits" in text
