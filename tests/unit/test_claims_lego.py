"""The claims about Lego-Net on planted results."""

import re
from dataclasses import replace

import pytest

from tamnas.records import Label
from tamnas.report.claims import lego
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED
from tamnas.report.intervals import newcombe, pooled_margin
from tamnas.report.study import ControlResults
from tests.helpers.planted import another, verdict, with_pooled, with_tests


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
    for judge in (lego.lego_beats_searched, lego.lego_beats_resnet18):
        assert verdict(judge, dataset) == expected
    # A smaller network that is not better decides nothing.
    assert verdict(lego.lego_beats_hand_made, dataset) == (UNDECIDED if parameters > 5_000_000 else expected)


def test_a_lego_net_that_is_hardly_larger_is_not_judged_by_size(several):
    dataset = with_pooled(several, 1_010_000, 0.95, 0.60)
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    for size, expected in ((1_000_000, UNDECIDED), (980_000, FAILS)):
        resnet18 = another(other, id="resnet18", parameters=size)
        assert lego.lego_beats_resnet18(replace(dataset, baselines=[resnet18])).verdict == expected


def test_the_more_networks_the_wider_the_intervals(several):
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60)
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    others = [another(other, id=name, parameters=2_000_000) for name in ("resnet20", "resnet32")]
    alone, beside = (
        lego.lego_beats_hand_made(replace(dataset, baselines=others[:count])).numbers.split("clean ")[1].split(",")[0]
        for count in (1, 2)
    )
    (low, high), (lower, higher) = (map(float, re.findall(r"\((\S+) to (\S+)\)", text)[0]) for text in (alone, beside))
    assert lower < low < high < higher


def test_lego_net_is_judged_by_the_mean_over_seeds(several):
    """The first seed alone would say that it holds, the second that it does not."""
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60)
    (other,) = with_tests(dataset.baselines[:1], [0.90], [0.50])
    network = dataset.pooled.network
    (again,) = with_tests([network], [0.87], [0.42])
    dataset = replace(
        dataset,
        pooled=replace(dataset.pooled, network=replace(network, repeats={7: again.test})),
        baselines=[another(replace(other, repeats={7: other.test}), id="resnet18", parameters=5_000_000)],
    )
    finding = lego.lego_beats_resnet18(dataset)
    assert finding.verdict == UNDECIDED
    assert "clean +1.00 (" in finding.numbers
    assert "in the mean of 2 trainings" in finding.numbers
    for repeats in ({}, {8: other.test}):
        first = replace(dataset, baselines=[replace(dataset.baselines[0], repeats=repeats)])  # the seed that both have
        assert "clean +5.00 (" in lego.lego_beats_resnet18(first).numbers


@pytest.mark.parametrize(("apart", "expected"), [(0.0005, HOLDS), (0.04, UNDECIDED), (None, UNDECIDED)])
def test_a_difference_counts_beside_that_of_a_network_to_itself(several, apart, expected):
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60, apart or 0)
    if apart is None:
        network = replace(dataset.pooled.network, repeats={})
        dataset = replace(dataset, pooled=replace(dataset.pooled, network=network))
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    finding = lego.lego_beats_resnet18(
        replace(dataset, baselines=[another(other, id="resnet18", parameters=5_000_000)])
    )
    assert finding.verdict == expected
    assert ("every network was trained once" in finding.numbers) == (apart is None)


def test_an_activation_as_published_is_said(several):
    pooled = several.plan.pooled
    pooled = pooled.model_copy(update={"network": pooled.network.model_copy(update={"activation": "silu"})})
    with_silu = replace(several, plan=several.plan.model_copy(update={"pooled": pooled}))
    for dataset, name, said in (
        (several, "resnet8", ""),
        (several, "resnet8_silu", "activation silu, not relu"),
        (with_silu, "resnet8", "activation relu, not silu"),
        (with_silu, "resnet8_silu", ""),
        (with_silu, "mobilenetv3", "activation hardswish, not silu"),
    ):
        finding = lego.lego_beats_hand_made(replace(dataset, baselines=[another(dataset.baselines[0], id=name)]))
        assert said in finding.numbers
        assert ("activation" in finding.numbers) == bool(said)


def test_intervals_cover_images_and_trainings_of_both_accuracies(several):
    """Ends by hand: two seeds of both, spreads that differ between clean and robust, fine-tuned ones left out."""
    dataset = with_pooled(several, 1_000_000, 0.95, 0.60)
    ours, theirs = dataset.pooled.network, dataset.baselines[0]
    planted = [(0.95, 0.60), (0.94, 0.57), (0.90, 0.50), (0.905, 0.52)]
    tests = [one.test for one in with_tests([theirs] * 4, *zip(*planted, strict=True))]
    ours = replace(ours, test=tests[0], repeats={7: tests[1]})
    theirs = another(replace(theirs, test=tests[2], repeats={7: tests[3]}), id="resnet18", parameters=5_000_000)
    row = several.rows[0]
    wild = [replace(row.finetune[0], repeats={7: replace(tests[0], clean=0.1, grid=dict.fromkeys(tests[0].grid, 0.1))})]
    rows = [replace(row, finetune=wild), *several.rows[1:]]
    dataset = replace(dataset, rows=rows, pooled=replace(dataset.pooled, network=ours), baselines=[theirs])
    numbers = lego.lego_beats_resnet18(dataset).numbers
    for index, which in enumerate(("clean", dataset.key_attack.text)):
        a, b, c, d = (accuracies[index] for accuracies in planted)
        images = newcombe((a + b) / 2, (c + d) / 2, 10_000, 10_000, 0.975)
        assert f"{which} {images.widened(pooled_margin([[a, b], [c, d]], 2, 0.975)).points}" in numbers


@pytest.mark.parametrize("at_chance", [True, False])
def test_a_training_at_chance_is_no_repeat(several, at_chance):
    network = several.pooled.network
    label = Label("seeds", "legonet_pooled", network.id, 7)
    again = replace(another(network, id="seed-7-lego", label=label), at_chance=at_chance)
    dataset = replace(
        several,
        controls=ControlResults({"seeds": "run"}, [again]),
        pooled=replace(several.pooled, network=replace(network, repeats={7: again.test})),
    )
    learnt, left_out = dataset.learnt()
    assert learnt.pooled.network.repeats == ({} if at_chance else {7: again.test})
    assert ("cifar10/seed-7-lego (control)" in left_out) == at_chance


def test_common_choices_are_said(several):
    finding = lego.lego_beats_searched(several)
    best = next(row for row in several.rows if row.plan.mode == several.plan.pooled.mode).best.architecture
    own = several.pooled.network.architecture
    genes = [(*arch.blocks, *arch.ratios) for arch in (own, best)]
    same = sum(a == b for a, b in zip(*genes, strict=True))
    assert finding.numbers.endswith(f"; {same} of {len(genes[0])} blocks and ratios are the same")
    assert "attacks of training" not in finding.numbers


def test_another_training_attack_decides_nothing_without_a_control(several):
    """Better by far, but only the control was trained as the hand-made network was."""
    dataset, pooled = with_pooled(several, 1_000_000, 0.95, 0.60), several.plan.pooled.training
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    training = pooled.model_copy(update={"attack": pooled.attack.model_copy(update={"m": 7})})
    baselines = several.plan.baselines.model_copy(update={"training": training})
    controls = several.plan.controls.model_copy(update={"common_attack": training})
    dataset = replace(
        dataset,
        plan=several.plan.model_copy(update={"baselines": baselines, "controls": controls}),
        baselines=[another(other, id="mobilenetv3", parameters=4_000_000)],
    )
    finding = lego.lego_beats_hand_made(dataset)
    assert finding.verdict == UNDECIDED
    assert f"differ (TRADES-YOPO-7-{pooled.attack.n}, Lego-Net {pooled.attack.name})" in finding.numbers
    for clean, expected in ((0.95, HOLDS), (0.5, FAILS)):
        label = Label("common_attack", "legonet_pooled", "lego", several.plan.seed)
        (network,) = with_tests([another(dataset.pooled.network, label=label)], [clean], [0.60])
        controlled = replace(dataset, controls=ControlResults({"common_attack": "run"}, [network]))
        finding = lego.lego_beats_hand_made(controlled)
        assert finding.verdict == expected
        assert "Lego-Net trained by the common attack" in finding.numbers


def test_a_lego_net_of_one_voter_differs_in_the_seed_alone(several):
    best = several.best_row.best
    network = another(several.pooled.network, architecture=best.architecture)
    dataset = replace(several, rows=[several.best_row], pooled=replace(several.pooled, network=network))
    finding = lego.lego_beats_searched(dataset)
    assert finding.verdict == UNDECIDED
    assert "they differ in the seed alone" in finding.numbers


def test_which_hand_made_networks_count_as_tiny(several):
    dataset = with_pooled(several, 200_000, 0.95, 0.60)
    sizes = {"resnet18": 11_173_962, "resnet20": 269_722, "resnet32": 464_154, "wrn34_2": 1_855_578}
    sizes |= {"shufflenetv2": 1_263_854, "mobilenetv3": 4_214_842}
    (other,) = with_tests(dataset.baselines[:1], [0.9], [0.5])
    networks = {name: another(other, id=name, parameters=size) for name, size in sizes.items()}

    def judge(**changed):
        return lego.lego_beats_hand_made(replace(dataset, baselines=[*(networks | changed).values()]))

    finding = judge()
    assert finding.verdict == HOLDS
    assert all(f"minus {name}:" in finding.numbers for name in ("ResNet-20", "ResNet-32", "WRN-34-2", "MobileNetV3"))
    assert "ResNet-18" not in finding.numbers
    assert "not run" not in finding.numbers
    (strong,) = with_tests([networks["wrn34_2"]], [0.9], [0.7])
    assert judge(wrn34_2=strong).verdict == FAILS
    small = another(networks["resnet20"], parameters=100_000)  # smaller than Lego-Net
    assert judge(resnet20=small).verdict == HOLDS
    (small_and_strong,) = with_tests([small], [0.99], [0.7])
    assert judge(resnet20=small_and_strong).verdict == FAILS
    equal = another(networks["resnet20"], parameters=199_000)
    assert judge(resnet20=equal).verdict == HOLDS

    for name in ("shufflenetv2", "mobilenetv3", "resnet32"):
        del networks[name]
    finding = judge()
    assert finding.verdict == HOLDS
    assert finding.numbers.endswith(
        "; judged on ResNet-20, WRN-34-2 alone, not run: ShuffleNetV2, MobileNetV3, ResNet-32"
    )
    large = replace(dataset, baselines=[networks["resnet18"]])
    assert lego.lego_beats_hand_made(large).verdict == NOT_RUN
