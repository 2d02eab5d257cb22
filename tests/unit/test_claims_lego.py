"""The claims about Lego-Net on planted results."""

from dataclasses import replace

import pytest

from tamnas.report.claims import judges
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED
from tests.helpers.planted import another, four_modes, verdict, with_tests


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    with four_modes(tmp_path_factory) as dataset:
        yield dataset


def with_pooled(several, parameters, clean, robust):
    (network,) = with_tests([several.pooled.network], [clean], [robust])
    return replace(several, pooled=replace(several.pooled, network=another(network, parameters=parameters)))


@pytest.mark.parametrize(
    ("parameters", "clean", "robust", "expected"),
    [
        (1_000_000, 0.95, 0.60, HOLDS),
        (9_000_000, 0.95, 0.60, FAILS),
        (1_000_000, 0.95, 0.40, FAILS),
        (1_000_000, 0.95, 0.501, UNDECIDED),
    ],
    ids=["better", "larger", "weaker", "equal"],
)
def test_lego_net_against_others(several, parameters, clean, robust, expected):
    dataset = with_pooled(several, parameters, clean, robust)
    rows = [
        replace(
            row, scratch=[another(one, parameters=2_000_000) for one in with_tests(row.scratch, [0.9] * 6, [0.5] * 6)]
        )
        for row in dataset.rows
    ]
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    names = ("resnet18", "shufflenetv2", "mobilenetv3")
    dataset = replace(dataset, rows=rows, baselines=[another(other, id=name, parameters=5_000_000) for name in names])
    for judge in (judges.lego_beats_searched, judges.lego_beats_resnet18, judges.lego_beats_hand_made):
        assert verdict(judge, dataset) == expected


def test_lego_net_is_judged_by_the_mean_over_seeds(several):
    """The first seed alone would say that it holds, the second that it does not."""
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60)
    (other,) = with_tests(dataset.baselines[:1], [0.90], [0.50])
    lego = dataset.pooled.network
    (again,) = with_tests([lego], [0.87], [0.42])
    dataset = replace(
        dataset,
        pooled=replace(dataset.pooled, network=replace(lego, repeats={7: again.test})),
        baselines=[another(replace(other, repeats={7: other.test}), id="resnet18", parameters=5_000_000)],
    )
    finding = judges.lego_beats_resnet18(dataset)
    assert finding.verdict == UNDECIDED
    assert "clean +1.00 (" in finding.numbers
    assert "in the mean of 2 trainings" in finding.numbers
    for repeats in ({}, {8: other.test}):
        first = replace(dataset, baselines=[replace(dataset.baselines[0], repeats=repeats)])  # the seed that both have
        assert judges.lego_beats_resnet18(first).verdict == HOLDS


def test_another_training_attack_and_common_choices_are_said(several):
    finding = judges.lego_beats_searched(several)
    best = next(row for row in several.rows if row.plan.mode == several.plan.pooled.mode).best.architecture
    lego = several.pooled.network.architecture
    genes = [(*arch.blocks, *arch.ratios) for arch in (lego, best)]
    same = sum(a == b for a, b in zip(*genes, strict=True))
    assert finding.numbers.endswith(f"; {same} of {len(genes[0])} blocks and ratios are the same")
    assert "trained by" not in finding.numbers
    own = several.plan.pooled.training.attack
    plan = several.plan.baselines
    other = own.model_copy(update={"m": 7})
    training = plan.training.model_copy(update={"attack": other})
    plan = several.plan.model_copy(update={"baselines": plan.model_copy(update={"training": training})})
    found = judges.lego_beats_hand_made(replace(several, plan=plan))
    assert f"trained by TRADES-YOPO-7-{own.n}, Lego-Net by {own.name}" in found.numbers


def test_a_lego_net_of_one_voter_differs_in_the_seed_alone(several):
    best = several.best_row.best
    network = another(several.pooled.network, architecture=best.architecture)
    dataset = replace(several, rows=[several.best_row], pooled=replace(several.pooled, network=network))
    finding = judges.lego_beats_searched(dataset)
    assert finding.verdict == UNDECIDED
    assert "they differ in the seed alone" in finding.numbers


def test_which_hand_made_networks_count_as_tiny(several):
    dataset = with_pooled(several, 200_000, 0.95, 0.60)
    sizes = {"resnet18": 11_173_962, "resnet20": 269_722, "resnet32": 464_154, "wrn34_2": 1_855_578}
    sizes |= {"shufflenetv2": 1_263_854, "mobilenetv3": 4_214_842}
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    networks = {name: another(other, id=name, parameters=size) for name, size in sizes.items()}

    def judge(**changed):
        return judges.lego_beats_hand_made(replace(dataset, baselines=[*(networks | changed).values()]))

    finding = judge()
    assert finding.verdict == HOLDS
    assert all(f"minus {name}:" in finding.numbers for name in ("ResNet-20", "ResNet-32", "WRN-34-2", "MobileNetV3"))
    assert "ResNet-18" not in finding.numbers
    assert "not run" not in finding.numbers
    (strong,) = with_tests([networks["wrn34_2"]], [0.9], [0.7])
    assert judge(wrn34_2=strong).verdict == FAILS
    assert judge(resnet20=another(networks["resnet20"], parameters=100_000)).verdict == FAILS  # smaller than Lego-Net

    for name in ("shufflenetv2", "mobilenetv3", "resnet32"):
        del networks[name]
    finding = judge()
    assert finding.verdict == HOLDS
    assert finding.numbers.endswith(
        "; judged on ResNet-20, WRN-34-2 alone, not run: ShuffleNetV2, MobileNetV3, ResNet-32"
    )
    large = replace(dataset, baselines=[networks["resnet18"]])
    assert judges.lego_beats_hand_made(large).verdict == NOT_RUN
