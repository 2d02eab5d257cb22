"""Toy fitness functions whose true front is known by brute force, and a search of them."""

from itertools import product

import numpy as np

from tamnas.attacks.registry import Pgd
from tamnas.config.sections import SearchPlan
from tamnas.search.front import Fitness
from tamnas.search.objectives import BASE
from tamnas.space.architecture import Architecture
from tamnas.space.space import SearchSpace


def tiny_space(layers: int, blocks=(0, 6, 20), ratios=(0.5, 1.0, 2.0)) -> SearchSpace:
    return SearchSpace(
        num_classes=2, stem_channels=4, channels=(8,), repeats=(layers,), strides=(2,), head=(4, 8, 4),
        blocks=blocks, ratios=ratios,
    )  # fmt: skip


TINY = tiny_space(2)  # 54 architectures
SMALL = tiny_space(3, ratios=(0.5, 1.0, 1.5, 2.0))  # 1,152
CLEAN = {0: 0.05, 6: 0.025, 20: 0.0}
ROBUST = {0: 0.0, 6: 0.1, 20: 0.04}
THREE = tuple(objective.name for objective in BASE)


def fitness_of(clean: float, robust: float, parameters: int) -> Fitness:
    """As a search for the paper's three objectives measures it."""
    return Fitness.of({"clean": clean, "robust": robust, "parameters": parameters}, THREE)


def toy(space: SearchSpace, arch: Architecture) -> Fitness:
    """Blocks and ratios that help clean accuracy hurt robust accuracy; both cost parameters."""
    clean = 0.5 + sum(CLEAN[block] for block in arch.blocks) + 0.02 * sum(arch.ratios)
    robust = 0.2 + sum(ROBUST[block] for block in arch.blocks) - 0.03 * sum(arch.ratios[1:])
    return fitness_of(clean, robust, space.parameters(arch))


def evaluator(space: SearchSpace):
    return lambda archs: [toy(space, arch) for arch in archs]


def everything(space: SearchSpace) -> dict[Architecture, Fitness]:
    blocks = product(*(space.allowed_blocks(layer) for layer in range(len(space.layers))))
    archs = [Architecture(*genes) for genes in product(blocks, product(space.ratios, repeat=len(space.layers)))]
    return {arch: toy(space, arch) for arch in archs}


def true_front(fitness: dict[Architecture, Fitness]) -> set[Architecture]:
    """By definition: nobody is at least as good in everything and better in something."""
    points = np.array([one.costs for one in fitness.values()])
    no_worse = (points[:, None] <= points[None]).all(2)  # [i, j]: i is no worse than j
    better = (points[:, None] < points[None]).any(2)
    dominated = (no_worse & better).any(0)
    return {arch for arch, out in zip(fitness, dominated, strict=True) if not out}


def planned(**changed) -> SearchPlan:
    setting = {
        "population": 16, "offspring": 16, "generations": 6, "tournament": 4, "mutation_probability": 0.1,
        "crossover_probability": 0.9, "bn_calibration_images": 0,
        "attack": Pgd(eps="8/255", step_size="2/255", steps=1),
    }  # fmt: skip
    return SearchPlan(**(setting | changed))
