"""Every parameter that the schema knows, of a wrong type, out of range and misspelt: cases made, not listed.

`FULL` is params.yaml with all that may be left out written down. A test requires that it and the schema agree,
so that a new parameter has its cases or the test fails.
"""

import copy
from collections.abc import Iterator
from fractions import Fraction
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from tamnas.attacks.listed import EvalPgd
from tamnas.attacks.registry import EvalAttack
from tamnas.config.fields import Section
from tamnas.config.params import Params
from tests.helpers.bad_params import DATASET, INF, MODE, NAN, edited

YOPO = {"m": 1, "n": 2, "step_size": "5/255", "bn": "eval"}
ATTACK = {"eps": "8/255", "attack_steps": None, "yopo": YOPO, "loss": "trades", "lam": 1.0}
PGD = {"kind": "pgd", "eps": "8/255", "steps": 10, "step_size": "2/255"}
OPTIONAL = {
    f"data.{DATASET}.path": "pictures",
    f"data.{DATASET}.url": None,
    f"data.{DATASET}.images": "cifar10",
    f"data.{DATASET}.train": 1000,
    f"data.{DATASET}.merge_validation": False,
    "supernet.attack_steps": None,
    "supernet.yopo": YOPO,
    "supernet.resample_every.epochs": None,
    "supernet.schedule.factor": 0.1,
    "supernet.block.milestones": [],
    "supernet.joint.milestones": [],
    "retrain.scratch.attack": ATTACK,
    "retrain.finetune.attack": ATTACK,
    "baselines.training.attack": ATTACK,
    "controls.common_attack": ATTACK,
    **{
        f"{recipe}.schedule.{key}": value
        for recipe in ("retrain.scratch", "retrain.finetune", "baselines.training")
        for key, value in (("milestones", []), ("factor", 0.1))
    },
    "eval.final": [PGD | {"steps": 20}],
    "eval.attacks": [PGD | {"steps": 7, "networks": "all", "images": 100, "batch_size": 50}],
    "eval.checks.attack": PGD,
    "retrain.validation.attack": PGD,
    f"legonet.pooled_mode.{DATASET}": MODE,
}
FULL = edited(OPTIONAL)

NONSENSE = "no such thing?"
NUMBERS = {int, float, Fraction}
# Of no parameter the value: counts end far below the last, all other numbers are finite and not negative.
NEVER_LEGAL = (-1, NAN, INF, 10**400)


class Case(NamedTuple):
    """`told`: how the line must begin after the file's name; `end`: what must stand in it besides."""

    told: str
    raw: dict
    end: str = ""


def paths(raw: dict | list, start: tuple = ()) -> Iterator[tuple]:
    """Every path of keys in mappings, and in the first of a list of mappings."""
    for key, value in raw.items() if isinstance(raw, dict) else [(0, raw[0])]:
        if isinstance(raw, dict):
            yield (*start, key)
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from paths(value, (*start, key))


def dotted(path: tuple) -> str:
    return ".".join(map(str, path))


def value_at(raw: dict, path: tuple) -> Any:
    for key in path:
        raw = raw[key]
    return raw


def kept(annotation: Any) -> Any:
    """Without `| None` and the limits of `Annotated`; for an attack of any kind, the one that FULL has."""
    if annotation is EvalAttack:
        return EvalPgd
    if get_origin(annotation) is Annotated:
        return kept(get_args(annotation)[0])
    options = [option for option in get_args(annotation) if option is not NoneType]
    return kept(options[0]) if NoneType in get_args(annotation) and len(options) == 1 else annotation


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def within(annotation: Any) -> dict[str, Any]:
    """What the schema allows inside: a section's fields, or `*` for any key of a mapping, any item of a list."""
    annotation = kept(annotation)
    if is_section(annotation):
        return {name: kept(field.annotation) for name, field in annotation.model_fields.items()}
    place = {dict: 1, tuple: 0}.get(get_origin(annotation))
    item = Any if place is None else kept(get_args(annotation)[place])
    return {} if item is Any else {"*": item}


def shapes(annotation: Any = Params, start: tuple = ()) -> Iterator[tuple]:
    """Every path that the schema knows; the items of a list only if they are sections."""
    for key, inner in within(annotation).items():
        is_list = get_origin(kept(annotation)) is tuple
        if is_list and not is_section(inner):
            continue
        if not is_list:
            yield (*start, key)
        yield from shapes(inner, (*start, key))


def typed(path: tuple) -> tuple[tuple, Any]:
    """A path as the schema has it, and the type there."""
    shape, annotation = (), Params
    for key in path:
        inner = within(annotation)
        name = "*" if "*" in inner else key
        shape, annotation = (*shape, name), inner[name]
    return shape, annotation


def atoms(annotation: Any) -> set[type]:
    """The types of the single values that `annotation` allows."""
    annotation = kept(annotation)
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (tuple, Annotated):
        return set().union(*(atoms(kept(part)) for part in get_args(annotation) if part is not Ellipsis))
    return {annotation} if isinstance(annotation, type) else set()


def altered(path: tuple, value: Any) -> dict:
    """FULL with one value changed."""
    raw = copy.deepcopy(FULL)
    value_at(raw, path[:-1])[path[-1]] = value
    return raw


def in_list(path: tuple, annotation: Any, value: Any) -> Any:
    """`value`, as the first item where the parameter is a list."""
    return [value, *(value_at(FULL, path) or ())[1:]] if get_origin(kept(annotation)) is tuple else value


def wrong_types() -> dict[str, Case]:
    found = {}
    for path in paths(FULL):
        annotation = typed(path)[1]
        values = [NONSENSE if is_section(annotation) or get_origin(annotation) is dict else {"nonsense": 1}]
        kinds = atoms(annotation)
        if kinds & NUMBERS:
            values += [in_list(path, annotation, value) for value in (True, "8", NONSENSE)]
        elif bool in kinds:
            values += [1, "yes"]
        elif str in kinds:
            values += [in_list(path, annotation, value) for value in (7, True)]
        if get_origin(annotation) is tuple:
            values.append(NONSENSE)
        elif not is_section(annotation):
            values.append([value_at(FULL, path)])
        found |= {f"{dotted(path)} {value!r}": Case(dotted(path), altered(path, value)) for value in values}
    return found


def out_of_range() -> dict[str, Case]:
    """For every number, every list of numbers and every choice."""
    found = {}
    for path in paths(FULL):
        annotation = typed(path)[1]
        numeric, item = atoms(annotation) & NUMBERS, within(annotation).get("*", annotation)
        values = NEVER_LEGAL if numeric else (NONSENSE,) if get_origin(item) is Literal else ()
        for value in values:
            raw = altered(path, in_list(path, annotation, value))
            found[f"{dotted(path)} {value!r:.20}"] = Case(dotted(path), raw)
    return found


def misspelt() -> dict[str, Case]:
    """Every key that the schema names, with its last letter doubled, and without its second; names are the user's."""
    found = {}
    for path in paths(FULL):
        *above, key = path
        # Without its kind nothing is known of an attack.
        if typed(path)[0][-1] == "*" or path == ("eval", "attacks", 0, "kind"):
            continue
        for wrong in (key + key[-1], key[0] + key[2:]) if len(key) > 2 else (key + key[-1],):
            raw = copy.deepcopy(FULL)
            section = value_at(raw, tuple(above))
            section[wrong] = section.pop(key)
            told = dotted((*above, wrong))
            found[told] = Case(told, raw, f": no such parameter; did you mean {key!r}?")
    return found


KINDS = {"wrong type": wrong_types, "out of range": out_of_range, "misspelt": misspelt}
