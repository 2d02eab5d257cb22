"""Control networks: random ones of a wanted size, reversed layers, which jobs a plan asks for, and all in one run."""

import pickle
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamnas.config.plan import ControlsStagePlan, RowControlsStagePlan, dataset_stages, row_stages
from tamnas.config.resolve import parse_params, resolve_study
from tamnas.controls import NOT_RUN, OWN, RUN, pooled_jobs, row_jobs, same_training, status
from tamnas.errors import InputError
from tamnas.records import Job, NetworkSpec, Start
from tamnas.search.random_search import random_search
from tamnas.space.architecture import Architecture
from tamnas.space.sampling import matching, reversed_order, uniform
from tamnas.space.space import SearchSpace
from tamnas.space.tilting import Cells, _tilted
from tests.helpers.tiny import CONTROLS_ON, ROOT, ROW, pool, tiny_params, write_params
from tests.helpers.toy_search import TINY, evaluator, fitness_of, planned

PAPER = SearchSpace.paper()


def plans(controls: dict | None = None, **changed) -> dict[str, ControlsStagePlan]:
    """Of the two stages of controls, by row and dataset."""
    raw = pool(tiny_params())
    raw["retrain"]["finetune"]["epochs"] = 2
    raw["controls"] = controls or {}
    study = resolve_study(parse_params(raw | changed))
    return {
        ROW: row_stages(study.rows[ROW])["controls"],
        "digits": dataset_stages(study.datasets["digits"])["controls_pooled"],
    }


# -- architectures ------------------------------------------------------------------------------


@settings(max_examples=12)
@given(share=st.floats(0, 1), seed=st.integers(0, 99), width=st.sampled_from((1, 2)))
def test_random_networks_have_the_size_wanted(share, seed, width):
    space = SearchSpace.paper(width=width)
    low, high = space.parameter_range()
    # at the two ends there are few architectures
    size = round(low + (0.01 + 0.98 * share) * (high - low))
    (arch,) = matching(space, [size], np.random.default_rng(seed))
    assert space.is_legal(arch)
    assert abs(space.parameters(arch) - size) < 0.001 * size


@settings(max_examples=8)
@given(seed=st.integers(0, 99), low=st.integers(1_650_000, 1_900_000))
def test_random_networks_are_legal_distinct_new_and_in_budget(seed, low):
    random = np.random.default_rng(seed)
    budget = (low, low + 20_000)
    front = [PAPER.decode(genes) for genes in PAPER.sample_genes(random, 3, (1_700_000, 1_900_000))]
    sizes = [PAPER.parameters(arch) for arch in front]
    found = matching(PAPER, sizes, random, budget, front)
    assert len({*found, *front}) == 6
    for arch, size in zip(found, sizes, strict=True):
        assert PAPER.is_legal(arch)
        assert budget[0] <= PAPER.parameters(arch) <= budget[1]
        nearest = min(max(size, budget[0]), budget[1])  # of what the budget has
        assert abs(PAPER.parameters(arch) - nearest) < 4_000


def test_the_uniform_network_is_the_one_of_the_nearest_size():
    found = [uniform(PAPER, size) for size in (0, 1_747_704, 1_748_000, 10**9)]
    assert [set(arch.blocks) for arch in found] == [{0}] * 4
    assert [set(arch.ratios) for arch in found] == [{0.2}, {1.0}, {1.0}, {2.0}]
    with pytest.raises(InputError, match="block 0 at layer 0"):
        uniform(SearchSpace(blocks=(1, 6)), 1_000_000)


def test_all_architectures_of_one_size_are_equally_likely():
    cells, sums = Cells(PAPER.table, PAPER.ratio_indices()), PAPER.parameter_sums
    tilt = cells.tilt_for(sums, 1_700_000)
    layers = list(zip(cells.legal, cells.figures(sums), strict=True))
    mean = cells.mean(sums, tilt)
    assert mean == pytest.approx(1_700_000)
    # the logarithm of an architecture's probability is a function of its size alone
    random = np.random.default_rng(0)
    sizes, logarithms = [], []
    for _ in range(20):
        chosen = [(counts, random.integers(len(counts))) for _, counts in layers]
        sizes.append(sum(counts[i] for counts, i in chosen))
        logarithms.append(sum(np.log(_tilted(tilt * counts)[i]) for counts, i in chosen))
    slope, offset = np.polyfit(sizes, logarithms, 1)
    assert slope == pytest.approx(-tilt)
    assert np.allclose(slope * np.array(sizes) + offset, logarithms)


def test_a_size_at_the_edge_of_the_space_is_met_where_the_edge_itself_is_taken():
    places = [np.unravel_index(table.argmax(), table.shape) for table in PAPER.table]
    largest = PAPER.decode(np.array(list(zip(*places, strict=True))).ravel())
    assert PAPER.parameters(largest) == PAPER.parameter_range()[1]
    (found,) = matching(PAPER, [PAPER.parameters(largest)], np.random.default_rng(0), taken=[largest])
    assert PAPER.parameters(found) > 0.98 * PAPER.parameters(largest)


def test_a_space_without_further_architectures_is_refused():
    smallest = TINY.parameter_range()[0]
    found = matching(TINY, [smallest] * 54, np.random.default_rng(0))
    assert len(set(found)) == 54
    with pytest.raises(InputError, match=r"^controls: no further architecture of about [\d,]+ parameters"):
        matching(TINY, [smallest], np.random.default_rng(0), taken=found)


@given(seed=st.integers(0, 999))
def test_reversed_layers_are_legal_and_the_same_genes(seed):
    for space in (PAPER, TINY):
        arch = space.sample(np.random.default_rng(seed))
        turned = reversed_order(space, arch)
        assert space.is_legal(turned)
        genes = [list(zip(one.blocks, one.ratios, strict=True)) for one in (arch, turned)]
        assert Counter(genes[0]) == Counter(genes[1])
        if space.is_legal(Architecture(arch.blocks[::-1], arch.ratios[::-1])):
            assert genes[1] == genes[0][::-1]


def test_an_illegal_block_changes_places_with_the_nearest_legal_one():
    # layers 0, 4 and 12 allow no bare non-local block: 20 lands on layer 4, from 11
    blocks = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 11, 12, 13, 14]
    turned = reversed_order(PAPER, Architecture(tuple(blocks), (1.0,) * 15 + (0.2,)))
    expected = blocks[::-1]
    expected[3], expected[4] = expected[4], expected[3]
    assert list(turned.blocks) == expected
    assert turned.ratios == (0.2, *(1.0,) * 15)


# -- random search ------------------------------------------------------------------------------


def test_random_search_makes_as_many_distinct_evaluations():
    asked = []

    def evaluate(archs):
        asked.extend(archs)
        return [fitness_of(0.5 + 0.1 * arch.ratios[0] / 2, 0.4, PAPER.parameters(arch)) for arch in archs]

    counts, budget = [20, 40, 55], (1_700_000, 1_900_000)
    plan = planned(budget=budget)
    rows, fitness = random_search(PAPER, plan, counts, evaluate, np.random.default_rng(0))
    assert len(asked) == len(set(asked)) == len(fitness) == 55
    assert all(budget[0] <= PAPER.parameters(arch) <= budget[1] for arch in asked)
    assert [row["evaluated"] for row in rows] == counts
    shares = [row["hypervolume"] for row in rows]
    assert shares == sorted(shares)
    assert shares[0] > 0
    # what the first count saw does not depend on what came later
    again, _ = random_search(PAPER, plan, [20, 55], evaluate, np.random.default_rng(0))
    assert again[0] == rows[0]


def test_random_search_ends_where_the_space_does():
    rows, fitness = random_search(TINY, planned(), [20, 100], evaluator(TINY), np.random.default_rng(0))
    assert [row["evaluated"] for row in rows] == [20, len(fitness)] == [20, 54]


# -- what a plan asks for -----------------------------------------------------------------------


def jobs_of(plan: RowControlsStagePlan, networks: int = 3) -> list[Job]:
    space = SearchSpace.from_params(plan)
    random = np.random.default_rng(0)
    archs = [space.sample(random) for _ in range(networks)]
    selected = [NetworkSpec(f"n{i:02d}", arch) for i, arch in enumerate(archs)]
    return row_jobs(plan, selected, "n01", archs[0], Path("start"))


def test_controls_that_are_off_ask_for_nothing():
    found = plans()
    assert jobs_of(found[ROW]) == []
    assert not found[ROW].controls.training
    assert not found["digits"].controls.training
    assert set(status(found[ROW]).values()) == {NOT_RUN}


def test_random_networks_keep_to_the_searchs_multiply_accumulates():
    free = plans({"random_networks": True})[ROW]
    space = SearchSpace.from_params(free)

    def macs(plan) -> list[int]:
        return [space.macs(job.network.architecture) for job in jobs_of(plan, 6)]

    cap = max(macs(free)) - 1
    capped = macs(free.model_copy(update={"max_macs": cap}))
    assert len(capped) == 6
    assert max(capped) <= cap


def test_every_control_trains_what_it_says():
    plan = plans(CONTROLS_ON, seeds=[3, 5])[ROW]
    jobs = jobs_of(plan)
    assert len({job.network.id for job in jobs}) == len(jobs)
    assert pickle.loads(pickle.dumps(jobs)) == jobs  # workers take them
    assert Counter(job.label.control for job in jobs) == {
        "random_networks": 3, "lego_reversed": 1, "lego_uniform": 1, "lego_random": 2, "finetune_lr_0.01": 3,
        "finetune_equal_budget": 3, "common_attack": 4, "seeds": 6,
    }  # fmt: skip
    own = {"scratch": plan.training.plain(), "finetune": plan.finetune.plain()}
    for job in jobs:
        label, changed = job.label, own["finetune" if job.label.kind == "finetune" else "scratch"]
        if label.control == "finetune_lr_0.01":
            changed = changed | {"recipe": changed["recipe"] | {"lr": 0.01}}
        if label.control == "finetune_equal_budget":
            scratch = own["scratch"]["recipe"]
            changed = changed | {"recipe": changed["recipe"] | {k: scratch[k] for k in ("epochs", "schedule")}}
        if label.control == "common_attack":
            changed = changed | {"attack": job.training.attack.plain()}
            assert job.training.attack.eps == Fraction(4, 255)
        assert job.training.plain() == changed
        assert job.start == (Start(Path("start"), label.of) if label.kind == "finetune" else None)
        stage = "legonet" if label.kind == "legonet" else f"retrain_{label.kind}"
        assert job.key == (label.seed, stage, ROW)
    repeats = [job for job in jobs if job.label.control == "seeds"]
    assert Counter((job.label.seed, job.label.kind, job.label.of) for job in repeats) == Counter(
        (seed, kind, of)
        for seed in (3, 5)
        for kind, of in (("scratch", "n01"), ("finetune", "n01"), ("legonet", "lego"))
    )


def test_another_common_attack_has_checkpoints_of_its_own():
    """Which controls are on is in no key of theirs, and a network's name does not tell the attack."""

    def folders(eps: str) -> dict[str, str]:
        plan = plans(CONTROLS_ON | {"common_attack": {"eps": eps, "attack_steps": 2}})[ROW]
        return {job.network.id: job.folder for job in jobs_of(plan)}

    one, other = folders("4/255"), folders("2/255")
    assert one.keys() == other.keys()
    subnets = {f"common_attack-n{i:02d}" for i in range(3)}
    assert {name for name in one if one[name] != other[name]} == subnets | {"common_attack-lego"}
    assert not any(folder for name, folder in one.items() if not name.startswith("common_attack"))


def test_random_draws_do_not_depend_on_other_controls():
    alone = jobs_of(plans({"random_networks": True})[ROW])
    among = [job for job in jobs_of(plans(CONTROLS_ON)[ROW]) if job.label.control == "random_networks"]
    assert alone == among
    more = jobs_of(plans({"legonet": {"random": 3}})[ROW])
    assert jobs_of(plans({"legonet": {"random": 2}})[ROW]) == more[:2]


def test_what_the_row_does_anyway_is_not_trained_again():
    raw = tiny_params()
    own = {"eps": raw["supernet"]["eps"], "attack_steps": raw["supernet"]["attack_steps"]}
    plan = plans({"common_attack": own, "finetune_lr": [raw["retrain"]["finetune"]["lr"], 0.01]})[ROW]
    assert same_training(plan.controls.common_attack, plan.training)
    assert {job.label.control for job in jobs_of(plan)} == {"finetune_lr_0.01"}
    told = status(plan)
    assert (told["common_attack"], told["finetune_lr_0.1"], told["finetune_lr_0.01"]) == (OWN, OWN, RUN)


def test_pooled_jobs():
    plan = plans(CONTROLS_ON, seeds=[3])["digits"]
    space = SearchSpace.from_params(plan)
    jobs = pooled_jobs(plan, space.sample(np.random.default_rng(0)))
    found = Counter(job.label.control for job in jobs)
    assert found == {"lego_reversed": 1, "lego_uniform": 1, "lego_random": 2, "common_attack": 1, "seeds": 2}
    assert [(job.network.id, job.network.baseline, job.key) for job in jobs if job.network.baseline] == [
        ("seed-3-resnet8", "resnet8", (3, "baselines", "digits"))
    ]
    assert [job.network.id for job in pooled_jobs(plan, None)] == ["seed-3-resnet8"]


@pytest.mark.parametrize(
    "stage", [("random_search", ROW), ("controls", "row", ROW), ("evaluate", "controls", ROW)], ids=" ".join
)
def test_a_stage_with_all_controls_off_imports_no_torch(stage, tmp_path):
    raw = tiny_params()
    write_params(tmp_path, raw)
    for folder in ("data", "runs"):
        (tmp_path / folder / ROW / "controls").mkdir(parents=True)
    (tmp_path / "data" / "digits.npz").touch()
    for stage_before in ("search", "retrain_scratch", "legonet"):
        (tmp_path / "results" / "digits" / stage_before / ROW).mkdir(parents=True)
    for made in ("start-scratch.json", "start-finetune.safetensors", "joint.safetensors"):
        (tmp_path / "runs" / ROW / made).touch()
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import stages.plan; stages.plan.main.run()\n"
        f"sys.argv = {list(stage)!r}\n"
        "try:\n"
        f"    runpy.run_module('stages.{stage[0]}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.joinpath("results").rglob("*.json"))
