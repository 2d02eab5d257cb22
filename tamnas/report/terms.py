"""What tables, figures and the page call things, and the notes that say under which setting a number holds."""

from collections.abc import Collection, Iterable

from tamnas.attacks.listed import EvalPgd
from tamnas.attacks.registry import Attack, Pgd
from tamnas.config.fields import format_fraction
from tamnas.config.sections import EvalParams, TrainingAttackPlan
from tamnas.report.accuracy import accuracy_value
from tamnas.report.agreement import Agreement
from tamnas.report.intervals import wilson
from tamnas.report.study import Dataset, TrainedNetwork, WorstCase
from tamnas.report.tables.table import Column, show

NAMES = {
    "resnet18": "ResNet-18",
    "resnet8": "ResNet-8",
    "resnet8_silu": "ResNet-8 with SiLU",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "wrn34_2": "WRN-34-2",
    "shufflenetv2": "ShuffleNetV2",
    "mobilenetv3": "MobileNetV3",
    "robnet-medium": "RobNet-medium",
    "robnet-small": "RobNet-small",
}
ACTIVATIONS = {"resnet8_silu": "silu", "mobilenetv3": "hardswish"}  # of hand-made networks; ReLU of the others
SIZE = Column("parameters", "Parameters", "millions", "min")
CLEAN = Column("clean", "Clean (%)", "percent", "max")
# Without a best: heads of searched and of hand-made networks are not the same thing.
HEAD, BODY = Column("head", "Head", "millions"), Column("body", "Body", "millions")
MACS = Column("macs", "MACs", "millions", "min")
LATENCY = Column("latency_ms", "Latency (ms)", "number", "min")
BOLD = "Bold: the best measured value of a column."
PAPER = "(paper …): the published value."
WORST = (
    "Worst case: an image is lost if any attack of this radius or a smaller one fools it, of those that ran on all of "
    "these images."
)
# The paper's datasets by `whose`: title, training and test images.
OFFICIAL = {
    "cifar10": ("CIFAR-10", 50_000, 10_000),
    "svhn": ("SVHN", 73_257, 26_032),
    "svhn-subset": ("a subset of SVHN",),
}


def counted(count: int, noun: str) -> str:
    """`1 network`, `2,000 networks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name_of(network: str) -> str:
    """A hand-made network's name as people write it."""
    return NAMES.get(network, network)


def attack_column(attack: Attack) -> Column:
    return Column(attack.key, attack.heading, "percent", "max", attack.latex)


def grid_attacks(plan: EvalParams) -> list[Pgd]:
    """In the paper's order: by steps, then by eps."""
    return [Pgd(eps=eps, steps=steps) for steps in sorted(plan.steps) for eps in sorted(plan.eps)]


def final_attacks(dataset: Dataset, networks: Iterable[TrainedNetwork]) -> list[Attack]:
    """The columns of Table X: the further attacks of final networks."""
    return [*(dataset.plan.eval.final or [dataset.key_attack]), *listed_attacks(dataset, networks)]


def listed_attacks(dataset: Dataset, networks: Iterable[TrainedNetwork]) -> list[Attack]:
    """Entries of `eval.attacks` that ran on one of the `networks`, and the worst case over all attacks."""
    attacks, ran = dataset.plan.eval.attacks, {attack for network in networks for attack in network.test.grid}
    return [attack for attack in (*attacks, *WorstCase.beside(attacks)) if attack in ran]


def final_networks(dataset: Dataset) -> list[tuple[str, TrainedNetwork]]:
    """(name, network) of those that get every attack."""
    networks = [(f"{row.name} {row.best.id}", row.best) for row in dataset.rows]
    networks += [(f"Lego-Net of {row.name}", row.lego.network) for row in dataset.rows if row.lego]
    networks += [("Lego-Net, pooled", dataset.pooled.network)] if dataset.pooled else []
    return networks + [(name_of(network.id), network) for network in dataset.baselines]


def lego_controls(dataset: Dataset) -> list[tuple[str, TrainedNetwork]]:
    """(name, network) of what stands beside a Lego-Net, which gets every attack, too."""
    scopes = [*((row.name, row.controls) for row in dataset.rows), ("the pooled one", dataset.controls)]
    return [
        (f"{network.id} (control of {scope})", network)
        for scope, controls in scopes
        for network in controls.networks
        if network.label.control.startswith("lego_")
    ]


def attack_notes(plan: EvalParams, ran: Collection[Attack]) -> list[str]:
    """The setting of each attack that `ran` beside the grid's, and the step sizes that differ from the grid's."""
    own_steps = [attack for attack in plan.final if attack.step_size and attack in ran]
    notes = [f"{attack.text}: step_size {format_fraction(attack.step_size)}." for attack in own_steps]
    listed = [attack for attack in plan.attacks if attack in ran]
    for attack in listed:
        own = [
            (name, value) for name, value in attack.plain().items() if name not in ("kind", "eps", "networks", "images")
        ]
        if isinstance(attack, EvalPgd) and attack.step_size is None:
            own.append(("step_size", "eps / 4"))
        settings = ", ".join(f"{name} {value}" for name, value in own if value is not None)
        first = "; on the first images of each class, as many of each" if attack.images else ""
        notes.append(f"{attack.text}: {settings or 'no settings'}{first}.")
    return [*notes, WORST] if listed else notes


def in_order(dataset: Dataset) -> list[tuple]:
    """(plan, row or None) in the order of params.yaml."""
    rows = {row.name: row for row in dataset.rows}
    plans = {**{row.name: row.plan for row in dataset.rows}, **{plan.row: plan for plan in dataset.missing}}
    return [(plans[name], rows.get(name)) for name in dataset.plan.pooled.rows]


def attack_text(plan: EvalParams) -> str:
    count = {"any": "an image is lost as soon as any iterate fools the network", "last": "the last iterate decides"}
    divisor = f"{plan.step_divisor:g}"
    return f"PGD on the cross-entropy, L-infinity, random start, step size eps / {divisor}; {count[plan.success]}"


def weights_text(weights: str) -> str:
    return {
        "best": "those of the epoch with the best robust accuracy on validation",
        "last": "those of the last epoch",
    }[weights]


def training_attack_text(attack: TrainingAttackPlan) -> str:
    eps, step = format_fraction(attack.eps), format_fraction(attack.step_size)
    lam = "" if attack.lam is None else f", lambda {attack.lam:g}"
    return f"{attack.name} at eps {eps}, inner step {step}{lam}"


def trained_apart(dataset: Dataset) -> list[str]:
    """In what, their architecture apart, hand-made networks differ from the Lego-Net beside them."""
    own, other = dataset.plan.pooled.training.attack, dataset.plan.baselines.training.attack
    if not dataset.baselines:
        return []
    attacks = f"hand-made networks {training_attack_text(other)}, Lego-Net {training_attack_text(own)}"
    notes = [] if own.essence == other.essence else [f"Training attacks differ: {attacks}."]
    apart = [network for network in dataset.baselines if activation_apart(dataset, network)]
    return notes + [f"{name_of(network.id)}: {activation_apart(dataset, network)}." for network in apart]


def activation_apart(dataset: Dataset, hand_made: TrainedNetwork) -> str:
    """In what this network's activation differs from the space's."""
    own, theirs = dataset.plan.network.activation, ACTIVATIONS.get(hand_made.id, "relu")
    return "" if theirs == own else f"activation {theirs}, not {own}"


def selection_images(dataset: Dataset) -> str:
    n = dataset.images["validation"]
    merged = dataset.plan.data.merge_validation
    return f"{n:,} test images (data.merge_validation)" if merged else f"{n:,} validation images"


def first_training(*datasets: Dataset) -> list[str]:
    """A note where networks have several trainings, of which something shows one."""
    several = any(tested.network.repeats for dataset in datasets for tested in dataset.tested())
    return ["Of a network that was trained with several seeds: the training with the run's own."] if several else []


def by_validation(dataset: Dataset) -> str:
    reference = dataset.plan.validation.attack.text
    return (
        f"A row's subnet is the one of its front with the best robust accuracy ({reference}) on "
        f"{selection_images(dataset)} after training from scratch."
    )


def max_half_width(n: int) -> float:
    low, high = wilson(0.5, n)
    return (high - low) / 2


def images_text(dataset: Dataset) -> str | None:
    """Whose images, how many of them where not all, at which size where not their own; None: nobody's we know."""
    whose, images, size = dataset.plan.data.whose, dataset.images, dataset.plan.data.size
    if whose is None:
        return None
    title, *official = OFFICIAL[whose]
    # With merge_validation the test images are the validation ones, too.
    used = images["train"] + images["validation"] * (not dataset.plan.data.merge_validation), images["test"]
    parts = [
        f"{count:,} of its {total:,} {split} images"
        for count, total, split in zip(used, official, ("training", "test"), strict=False)
        if count < total
    ]
    beside = ["not comparable with published figures"] if whose.endswith("-subset") else []
    return ", ".join([title + (f" at {size}x{size} pixels" if size != 32 else ""), *parts, *beside])


def data_text(dataset: Dataset) -> str:
    text = images_text(dataset)
    return f"Dataset {dataset.name}" + (f" ({text})" if text else "")


def setting(dataset: Dataset, attack: Attack | None = None) -> list[str]:
    """Notes of a table of test accuracies, with the interval of the best subnet under `attack` as an example."""
    n, plan, row = dataset.images["test"], dataset.plan, dataset.best_row
    widest = f"over all test images at most {100 * max_half_width(n):.1f} points to a side"
    interval = f"In square brackets: 95% Wilson intervals, {widest}"
    if attack and row and attack in row.best.test.grid:
        value = accuracy_value(row.best, attack)
        low, high = value.interval
        example = f"{row.name} {row.best.id}, {attack.text}: {show(value, 'percent')}%"
        interval += f"; {example}, {100 * low:.2f} to {100 * high:.2f}"
    notes = [
        f"{data_text(dataset)}, n = {n:,} test images, seed {plan.seed}. {interval}.",
        f"Attack: {attack_text(plan.eval)}.",
        f"Weights: {weights_text(plan.eval.weights)}.",
    ]
    if plan.seeds:
        seeds = ", ".join(map(str, (plan.seed, *plan.seeds)))
        notes.append(
            f"Where a ± stands: mean and sample standard deviation of {1 + len(plan.seeds)} trainings (seeds {seeds}); "
            "the interval is over test images alone."
        )
    # A mode may patch `eval` too.
    notes += [
        f"{row.name} differs: {attack_text(row.plan.eval)}; {weights_text(row.plan.eval.weights)}."
        for row in dataset.rows
        if (attack_text(row.plan.eval), row.plan.eval.weights) != (attack_text(plan.eval), plan.eval.weights)
    ]
    return notes


def notes_of(dataset: Dataset, own: Iterable[str], attack: Attack) -> list[str]:
    """Of a table with published values: `setting`, the table's `own` notes, what the marks mean."""
    known = [PAPER] if dataset.published in OFFICIAL else []
    return [*setting(dataset, attack), *own, " ".join([BOLD, *known])]


def cost_notes(networks: Iterable[TrainedNetwork], size: int) -> list[str]:
    """What the columns HEAD, BODY, MACS and LATENCY count; `size` of the images in pixels."""
    notes = [
        "Head: of a searched network all that follows its last choice block, of a hand-made one its classifier; body: "
        f"the rest, stem included. MACs: multiply-accumulates of one {size}x{size} image in convolutions, linear "
        "layers and attention."
    ]
    processors = sorted({network.costs.processor for network in networks if network.costs.processor})
    if processors:
        notes.append(
            f"Latency: median time of one image on one thread ({', '.join(processors)}), BatchNorm folded into "
            "convolutions; a wall time, which differs from run to run."
        )
    return notes


def tau_text(agreement: Agreement | None, networks: int) -> str:
    if agreement is None or agreement.tau is None:
        return f"undefined ({counted(networks, 'network')})"
    tau = agreement.tau
    return f"{tau.value:.2f} ({tau.low:.2f} to {tau.high:.2f}, {networks} networks)".replace("-", "−")
