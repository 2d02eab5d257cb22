"""The paper's conclusions about Lego-Net, as `judges` has the others."""

from statistics import fmean

from tamnas.config.sections import PAPER_BASELINES, TrainingAttackPlan
from tamnas.report.accuracy import shares
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, Finding, above, all_of, at_level
from tamnas.report.intervals import newcombe, pooled_margin
from tamnas.report.study import FINETUNED, Dataset, TrainedNetwork
from tamnas.report.terms import activation_apart, name_of

TINY_NETWORK = 5_000_000  # parameters: the paper calls MobileNetV3 (4.93M) tiny, and judges ResNet-18 (11.17M) apart
LARGE = "resnet18"
EQUAL = 0.02  # share of the parameters in which networks of one size may differ


def lego_beats_searched(dataset: Dataset) -> Finding:
    if dataset.lego is None or not dataset.rows:
        return Finding(NOT_RUN, "needs the Lego-Net over all rows")
    row = next((row for row in dataset.rows if row.plan.mode == dataset.plan.pooled.mode), dataset.best_row)
    name, ours, theirs = f"the best subnet, {row.name} {row.best.id}", dataset.lego.network, row.best
    if ours.architecture == theirs.architecture:
        return Finding(UNDECIDED, f"Lego-Net has the architecture of {name}: they differ in the seed alone")
    verdicts, text = _compared(dataset, name, theirs, row.plan.retrain.scratch.attack)
    genes = [(*network.architecture.blocks, *network.architecture.ratios) for network in (ours, theirs)]
    same = sum(a == b for a, b in zip(*genes, strict=True))
    alike = f"{same} of {len(genes[0])} blocks and ratios are the same"
    return Finding(all_of(verdicts), f"Lego-Net {text}; {alike}")


def lego_beats_resnet18(dataset: Dataset) -> Finding:
    resnet18 = next((network for network in dataset.baselines if network.id == LARGE), None)
    if dataset.lego is None or resnet18 is None:
        return Finding(NOT_RUN, f"needs {name_of(LARGE) if dataset.lego else 'the Lego-Net over all rows'}")
    verdicts, text = _compared(dataset, name_of(LARGE), resnet18, dataset.plan.baselines.training.attack)
    return Finding(all_of(verdicts), f"Lego-Net {text}")


def lego_beats_hand_made(dataset: Dataset) -> Finding:
    tiny = [network for network in dataset.baselines if network.parameters <= TINY_NETWORK]
    if dataset.lego is None or not tiny:
        need = "a hand-made network of at most 5 million parameters" if dataset.lego else "the Lego-Net over all rows"
        return Finding(NOT_RUN, f"needs {need}")
    attack, verdicts, texts = dataset.plan.baselines.training.attack, [], []
    for other in tiny:
        (size, *accuracies), text = _compared(dataset, name_of(other.id), other, attack, len(tiny))
        larger = dataset.lego.network.parameters / other.parameters - 1
        if larger > EQUAL:
            verdicts += [verdict for verdict in accuracies if verdict == FAILS]  # in size there is nothing to win
        else:
            verdicts += accuracies if abs(larger) <= EQUAL else [size, *accuracies]
        texts.append(text)
    trained = {network.id for network in dataset.baselines}
    absent = [name_of(name) for name in PAPER_BASELINES if name not in trained and name != LARGE]
    shown = ", ".join(name_of(network.id) for network in tiny)
    left_out = f"; judged on {shown} alone, not run: {', '.join(absent)}" if absent else ""
    return Finding(all_of(verdicts), f"Lego-Net {'; '.join(texts)}{left_out}")


def _compared(
    dataset: Dataset, name: str, other: TrainedNetwork, trained_by: TrainingAttackPlan, networks: int = 1
) -> tuple[list[str], str]:
    """(is Lego-Net smaller, more accurate, more robust than the other network; the numbers, and what sets them apart).

    By the means over the seeds that both have, at a level of 95% for both accuracies of so many `networks` together
    (Bonferroni). Accuracies decide nothing where training attacks differ, or where no network was trained with several
    seeds.
    """
    level = 1 - 0.05 / (2 * networks)
    lego, alike = _lego_trained_by(dataset, trained_by)
    repeated = [one.network for one in dataset.tested() if one.kind != FINETUNED and one.network.repeats]
    larger = lego.parameters / other.parameters - 1
    verdicts = [HOLDS if larger < 0 else FAILS if larger > EQUAL else UNDECIDED]
    parts = [f"{lego.parameters - other.parameters:+,} parameters".replace("-", "−")]
    for which, under in (("clean", None), (dataset.key_attack.text, dataset.key_attack)):
        theirs = shares(other, under)
        pairs = [(share, theirs[seed]) for seed, share in shares(lego, under).items() if seed in theirs]
        if not pairs:
            verdicts.append(UNDECIDED)
            continue
        difference = newcombe(*map(fmean, zip(*pairs, strict=True)), lego.test.images, other.test.images, level)
        if repeated:
            trainings = [[*shares(network, under).values()] for network in repeated]
            difference = difference.widened(pooled_margin(trainings, len(pairs), level))
        verdicts.append(above(difference) if alike and repeated else UNDECIDED)
        seeds = f" in the mean of {len(pairs)} trainings" if len(pairs) > 1 else ""
        parts.append(f"{which} {difference.points}{seeds}")
    own = dataset.plan.pooled.training.attack
    doubts = [] if repeated else ["every network was trained once"]
    doubts += [] if alike else [f"attacks of training differ ({trained_by.name}, Lego-Net {own.name})"]
    if doubts:
        parts.append(f"undecided, as {' and '.join(doubts)}")
    if lego is not dataset.lego.network:
        parts.append(f"Lego-Net trained by the common attack, {trained_by.name}, as it was")
    if other.architecture is None and (apart := activation_apart(dataset, other)):
        parts.append(apart)
    return verdicts, f"minus {name}: {', '.join(parts)}; n = {dataset.images['test']:,} images, {at_level(level)}"


def _lego_trained_by(dataset: Dataset, attack: TrainingAttackPlan) -> tuple[TrainedNetwork, bool]:
    """The Lego-Net as it was trained by `attack`, maybe as a control, and whether there is one; else as it is."""
    lego = dataset.lego.network
    if attack.essence == dataset.plan.pooled.training.attack.essence:
        return lego, True
    owner = dataset if dataset.plan.pooled.trained else dataset.rows[0]
    common = owner.plan.controls.common_attack
    controls = [network for network in owner.controls.of("common_attack") if network.label.of == "lego"]
    if common and controls and common.attack.essence == attack.essence:
        return controls[0], True
    return lego, False
