"""Whether inherited weights predict the order of networks, by how the supernet was trained; CIFAR-10 at 16x16.

    python -m benchmarks.ranking --cifar10 CIFAR10.npz --out FOLDER [--part networks|supernets] [--table]

Two groups of networks (the geometry of the profile `mini`: 6 layers of 24, 48 and 96 channels, no head; the 4 blocks of
`FOUR`, 5 ratios) are trained from scratch with one recipe, and again with another seed: `random`, 30 random networks,
which have 28,000 to 45,000 parameters, and `sizes`, one random network of each of 20 equal parts of the range that
networks of this space have, 15,000 to 68,000; the latter a second time for four times as long (`longer`). Then each
schedule of `SCHEDULES` trains a supernet, and the same networks inherit its weights, their BatchNorm as inherited or
recalibrated on 1,024 training images: clean, attacked or both. Schedules of the same blocks cost the same, 5 epochs of
blocks (or 15 on clean images, which take a third of the time) and 8 of blocks and ratios; a path of 22 blocks has 1.4
times the multiply-accumulates of one of 4. All train on the same 20,000 images by TRADES with one attack step and 1/lam
= 6; accuracies are of 5,000 validation images, clean and under PGD (20 steps of trained networks, 5 of inherited
weights).

A first table for each group and length says how far apart its networks are, and how far one is from itself when trained
with the other seed. A second sets Kendall's tau with its 95% interval by bootstrap over the networks, the share of the
best five that is found (by chance 0.17 of 30, 0.25 of 20) and the regret in points of picking the first
(`tamnas.report.agreement`) beside each way to predict the trained accuracies of the first seed. Training again with
another seed says how much of an order there is to predict: were it perfect, a prediction of what a network is worth
would correlate with one training by the root of the correlation of two. The number of parameters is what costs nothing.

Fair: every block of a layer once in as many steps, or with 4 paths, each on a quarter of the batch, once in every step
(FairNAS).

Plan, on a fast core: a network takes 6 epochs of 45 s, all 50 about 3 3/4 hours, the 20 longer ones 6, the second seed
as much again; a schedule 12 minutes, and 15 for evaluation, all fifteen 7 hours. The two parts can run side by side.
FOLDER gets a folder for each group, with one JSON file per network and per schedule and recalibration, and one for the
supernets' weights. What is there is not computed again, what was cut off goes on; --table prints what there is.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path

import click
import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from benchmarks.cifar import answer_in, measured, options, plans, prepared, setting, trained
from benchmarks.harness import first_images, report
from tamnas.config.plan import RowPlan, row_stages
from tamnas.data.loader import Split, chunks, load_split
from tamnas.data.prepare import IN_PROCESS
from tamnas.errors import DivergenceError
from tamnas.evaluation.accuracy import accuracy, fast_copy, pgd_accuracy
from tamnas.files import read_json, write_json
from tamnas.networks.supernet import Supernet
from tamnas.networks.trained import supernet_tensors
from tamnas.pipeline import checkpoint, device
from tamnas.pipeline.command import help_of, one_line_errors
from tamnas.pipeline.store import key_of, locked
from tamnas.report.agreement import agreement
from tamnas.report.intervals import Interval, correlation
from tamnas.search.recalibration import RECALIBRATIONS, recalibrations
from tamnas.seeding import numpy_generator
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace
from tamnas.training.loop import Resume
from tamnas.training.phases import train_phase

NETWORKS, SIZES, TRAIN, SEEDS = 30, 20, 20_000, (0, 1)
TRAININGS = {"random": ["networks"], "sizes": ["networks", "longer"]}  # of each group
FOUR, EIGHT, ALL = [0, 3, 6, 12], [0, 1, 3, 6, 9, 12, 18, 20], list(range(22))
IMAGES, BATCH, TOP = 1024, 128, 5
WHATS = ("clean", "robust")
ATTACK = {"eps": "8/255", "yopo": {"m": 1, "n": 1}, "lam": 1 / 6}
BASE = {
    "network": {"stem_channels": 12, "channels": [24, 48, 96], "repeats": [2, 2, 2], "head": None},
    "supernet": {
        **ATTACK,
        "batch_size": 64,
        "joint": {"epochs": 8, "open_ratios": {"first": 2, "after": 1, "every": 1}},
    },
    "search": {"attack": {"steps": 5}},
    "retrain": {"scratch": {"attack": ATTACK, "epochs": 6, "batch_size": BATCH, "lr": 0.1}},
}


def schedule(blocks: list[int], clean: bool = True, every: dict | None = None, **supernet) -> dict:
    """A new path every step if `every` does not say otherwise."""
    block = {"epochs": 15, "clean_epochs": 15} if clean else {"epochs": 5}
    resample_every = {"steps": None, "epochs": None} | (every or {"steps": 1})
    supernet = {"lr": 0.1, "resample_every": resample_every, "block": block} | supernet
    return {"supernet": supernet, "space": space(blocks)}


def space(blocks: list[int]) -> dict:
    return {"blocks": blocks, "ratios": [0.4, 0.8, 1.2, 1.6, 2.0]}


LENGTHS = {"networks": {"space": space(FOUR)}, "longer": {"space": space(FOUR), "retrain": {"scratch": {"epochs": 24}}}}
SCHEDULES = {
    "4-clean": schedule(FOUR),
    "8-clean": schedule(EIGHT),
    "22-clean": schedule(ALL),
    "4-attacked": schedule(FOUR, clean=False),
    "22-attacked": schedule(ALL, clean=False),
    "4-clean-20-steps": schedule(FOUR, every={"steps": 20}),
    "4-clean-epoch": schedule(FOUR, every={"epochs": 1}),
    "22-attacked-epoch": schedule(ALL, clean=False, every={"epochs": 1}),
    "22-attacked-20-epochs": schedule(ALL, clean=False, every={"epochs": 20}),  # the paper's: here one path a phase
    "4-clean-fair": schedule(FOUR, draw="fair"),
    "4-clean-fair-4-paths": schedule(FOUR, draw="fair", paths=4),
    "4-clean-restart": schedule(FOUR, schedule={"span": "phase"}),  # a cosine for each phase
    "4-clean-lr-0_05": schedule(FOUR, lr=0.05),
    "4-clean-lr-0_2": schedule(FOUR, lr=0.2),
    "4-clean-restart-lr-0_2": schedule(FOUR, lr=0.2, schedule={"span": "phase"}),  # both gained accuracy
}


@click.command(help=help_of(__doc__))
@options
@click.option("--part", type=click.Choice(["networks", "supernets"]), help="This part alone.")
@one_line_errors
def main(cifar10: Path, out: Path, part: str | None, table: bool) -> None:
    rows = plans(cifar10, BASE, LENGTHS | SCHEDULES, TRAIN)
    lengths = {name: rows.pop(name) for name in LENGTHS}
    found = groups(SearchSpace.from_params(lengths["networks"]))
    if not table:
        data = prepared(cifar10, lengths["networks"])
        if part != "supernets":
            with locked("ranking", "networks", out):
                for group, seed in product(found, SEEDS):
                    for length, (index, arch) in product(TRAININGS[group], enumerate(found[group])):
                        name = f"{index:02}-seed-{seed}"
                        trained(lengths[length], arch, name, seed, data, out / group / length)
        if part != "networks":
            with locked("ranking", "supernets", out):
                for plan, group in product(rows.values(), found):
                    inherited(plan, found[group], data, out / group / "supernets", out / "supernets")
    for group, archs in found.items():
        for length in TRAININGS[group]:
            print_tables(out / group / length, len(archs))


def groups(among: SearchSpace) -> dict[str, list[Architecture]]:
    """The networks of each group, by its name; the same in every run."""
    random = among.sample_genes(numpy_generator("ranking", "networks"), NETWORKS)
    ends = np.linspace(*among.parameter_range(), SIZES + 1).astype(int).tolist()
    sizes = [among.sample(numpy_generator("ranking", "sizes", low), (low, high)) for low, high in pairwise(ends)]
    return {"random": [among.decode(genes) for genes in random], "sizes": sizes}


def inherited(plan: RowPlan, archs: list[Architecture], data: Path, out: Path, weights: Path) -> None:
    """Evaluate `archs` with weights of the plan's supernet, in one file for each recalibration.

    The supernet is trained below `weights`, if it is not there.
    """
    asked = setting(plan) | {"schedule": plan.row, "supernet": plan.supernet.plain(), "space": plan.space.plain()}
    asked |= {"validation": plan.search.attack.text}
    paths = {kind: out / f"{plan.row}-{kind}.json" for kind in RECALIBRATIONS}
    missing = {kind: path for kind, path in paths.items() if answer_in(path, asked | {"recalibration": kind}) is None}
    if not missing:
        return
    runtime, result = device.start(plan.numerics, IN_PROCESS), asked | measured(plan)
    train, validation = (load_split(data, split, runtime.device) for split in ("train", "validation"))
    try:
        supernet, history = trained_supernet(plan, train, runtime, weights / key_of(asked))
    except DivergenceError as error:
        for kind, path in missing.items():
            write_json(path, result | {"recalibration": kind, "diverged": error.details, "networks": []})
        return
    found = {kind: [] for kind in missing}
    for index, arch in enumerate(archs):
        drawn = chunks(first_images(train, IMAGES), BATCH)
        for kind, calibrated in recalibrations(supernet.extract(arch).eval(), drawn, plan.search.attack):
            if kind in found:
                subnet = fast_copy(calibrated)
                robust = pgd_accuracy(subnet, validation, plan.search.attack, ("ranking", "attack"))
                found[kind].append({"name": f"{index:02}", "clean": accuracy(subnet, validation), "robust": robust})
    for kind, path in missing.items():
        write_json(path, result | {"recalibration": kind, "networks": found[kind], "history": history})


def trained_supernet(
    plan: RowPlan, split: Split, runtime: device.Runtime, weights: Path
) -> tuple[Supernet, list[dict]]:
    """Both phases, each from its checkpoint; with the curve of both."""
    start, history = None, []
    for stage in ("supernet_block", "supernet_joint"):
        resume = Resume(weights / f"{plan.row}-{stage}.state.safetensors")
        supernet, outcome = train_phase(row_stages(plan)[stage], stage, split, start, runtime, resume)
        history += [{"stage": stage, **row} for row in outcome.history]
        start = weights / f"{plan.row}-{stage}.safetensors"
        checkpoint.write_weights(start, supernet_tensors(supernet), {"row": plan.row})
    return supernet, history


def print_tables(folder: Path, count: int) -> None:
    """Of a group of so many networks, as they were trained in `folder`."""
    out, label = folder.parent, f"{folder.parent.name}-{folder.name}"
    files = {path.stem: read_json(path) for path in sorted([*folder.glob("*.json"), *out.glob("supernets/*.json")])}
    networks = {seed: [files.get(f"{index:02}-seed-{seed}") for index in range(count)] for seed in SEEDS}
    truth = networks[SEEDS[0]]
    if count - truth.count(None) > 1:
        print_spread(networks, label, out / f"spread-{folder.name}.json")
    if None in truth:
        click.echo(f"{label}: {count - truth.count(None)} of {count} networks are trained; tau needs all of them")
        return
    ways = {"trained again": networks[SEEDS[1]]} if None not in networks[SEEDS[1]] else {}
    ways["parameters"] = [{"clean": network["parameters"], "robust": network["parameters"]} for network in truth]
    for name in SCHEDULES:
        for kind in RECALIBRATIONS:
            if predictions := files.get(f"{name}-{kind}", {}).get("networks"):
                ways[f"{name}, {kind}"] = predictions
    rows, figures = [], {}
    for way, predictions in ways.items():
        shares = {what: [network[what] for network in predictions] for what in WHATS}
        agreed = {what: agreement(shares[what], [network[what] for network in truth], TOP) for what in WHATS}
        figures[way] = {what: asdict(agreed[what]) for what in WHATS}
        cells = [100 * np.mean(shares[what]) if way != "parameters" else "" for what in WHATS]
        cells += [shown(agreed[what].tau) for what in WHATS] + [f"{agreed[what].overlap:.2f}" for what in WHATS]
        rows.append([way, *cells, *(f"{100 * agreed[what].regret:.2f}" for what in WHATS)])
    columns = [f"{title} {what}" for title in ("tau", f"best {TOP}", "regret") for what in WHATS]
    title = f"{count} networks ({label}), CIFAR-10 at 16x16: what predicts their accuracy when trained"
    result = {"agreement": figures, "networks": networks}
    columns = ["predicted by", "mean clean, %", "mean robust, %", *columns]
    report(title, columns, rows, result, out / f"table-{folder.name}.json")


def print_spread(networks: dict[int, list], label: str, path: Path) -> None:
    """How far apart networks are, and how far one is from itself with another seed: what there is to predict."""
    first, again = networks.values()
    pairs, rows = [pair for pair in zip(first, again, strict=True) if None not in pair], []
    for what in WHATS:
        shares = 100 * np.array([network[what] for network in first if network])
        row = [what, len(shares), f"{shares.min():.1f} to {shares.max():.1f}", shares.std(ddof=1), len(pairs)]
        if len(pairs) > 1:
            seeds = 100 * np.array([[network[what] for network in pair] for pair in pairs]).T
            row += [seeds[0].std(ddof=1), np.diff(seeds, axis=0).std(ddof=1) / 2**0.5]
        if len(pairs) > TOP:
            row += [shown(correlation(*(seeds - seeds.mean(1, keepdims=True)), groups=1))]
        row += [""] * (8 - len(row))
        for own in networks.values():
            known = [network for network in own if network]
            row.append(doubling(known, what) if len(known) > 2 else "")
        rows.append(row)
    columns = ["accuracy", "networks", "%", "deviation", "trained again", "deviation of these", "by seed alone"]
    columns += ["correlation of seeds", "a doubling of parameters, seed 0", "seed 1"]
    report(f"How far apart networks are ({label}), points", columns, rows, {}, path)


def doubling(networks: Sequence[dict], what: str) -> str:
    """Points gained with each doubling of parameters, by least squares, with a 95% t interval."""
    sizes, shares = ([network[name] for network in networks] for name in ("parameters", what))
    fit = linregress(np.log2(sizes), 100 * np.array(shares))
    return shown(Interval(fit.slope, *student.interval(0.95, len(networks) - 2, fit.slope, fit.stderr)))


def shown(tau: Interval | None) -> str:
    return "all alike" if tau is None else f"{tau.value:.2f} ({tau.low:.2f} to {tau.high:.2f})"


if __name__ == "__main__":
    main()
