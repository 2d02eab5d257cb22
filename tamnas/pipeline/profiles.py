"""Apply a profile: merge an overlay from profiles/ into params.yaml, keeping its comments.

    tamnas profile paper-cifar10 [--set KEY=VALUE ...]
    git checkout params.yaml    # undoes it

`--set data.cifar10.path=/data` changes one value more; VALUE is YAML. Prints every value that
changes. Unknown keys are refused and nothing is written then. Mappings
are merged key by key; only those of free names (rows, modes) are replaced whole by what states them: `--set
modes.S_8_1.supernet.eps=6/255` leaves the other modes. A profile that says `extends: <name>` is merged over that one
first.
"""

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from tamnas.config.fields import parse_yaml, read_yaml
from tamnas.config.resolve import parse_params
from tamnas.errors import InputError
from tamnas.files import write_text
from tamnas.pipeline.command import help_of, one_line_errors

PROFILES = Path("profiles")
REPLACED = ("run.rows", "modes", "legonet.pooled_mode")  # mappings of free names: a profile states all of them


def overlay(params: CommentedMap, patch: dict, replaced: Sequence[str] = REPLACED, path: str = "") -> list[str]:
    """Merge `patch` into `params` in place, but for the mappings `replaced`; returns one line per changed value."""
    changes = []
    for key, value in patch.items():
        here = f"{path}{key}"
        if here in replaced or not (isinstance(value, dict) and isinstance(params.get(key), dict)):
            old = params.get(key)
            if old != value or key not in params:
                # Validation of the merged whole refuses what no section knows.
                changes.append(f"{here}: {_shown(old)} -> {_shown(value)}")
                params[key] = copy.deepcopy(value)  # an alias in the profile must not become one here
        else:
            changes += overlay(params[key], value, replaced, f"{here}.")
    return changes


def _apart(value, met: set[int]):
    """`value` with its mappings in place, but a copy where an alias has one a second time."""
    if not isinstance(value, dict):
        return value
    if id(value) in met:
        value = copy.deepcopy(value)
    met.add(id(value))
    for key, own in value.items():
        value[key] = _apart(own, met)
    return value


def _shown(value) -> str:
    text = str(value if not isinstance(value, dict) else ", ".join(value))
    return text if len(text) < 100 else text[:97] + "..."


def parse_setting(text: str) -> dict:
    """`a.b=1` as {"a": {"b": 1}}. Raises InputError."""
    keys, equals, value = text.partition("=")
    names = keys.split(".")
    if not equals or not all(names):
        raise InputError(f"--set {text!r}: allowed: KEY=VALUE with a key such as data.cifar10.path")
    patch = parse_yaml(value, f"--set {text!r:.100}")
    for key in reversed(names):
        patch = {key: patch}
    return patch


def read_profile(name: str, within: tuple[str, ...] = ()) -> dict:
    """profiles/<name>.yaml over whatever it extends. Raises InputError."""
    source = PROFILES / f"{name}.yaml"
    if not source.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise InputError(f"profile {name!r} does not exist; there are: {known}")
    if name in within:
        raise InputError(f"{source}: extends: {' -> '.join((*within, name))} is circular")
    # Written out and read again, what YAML aliases share is apart: merging into one must not change the other.
    patch = json.loads(json.dumps(read_yaml(source), default=str))
    extended = patch.pop("extends", None)
    if extended is None:
        return patch
    whole = read_profile(extended, (*within, name))
    overlay(whole, patch)
    return whole


def apply(name: str, path: Path = Path("params.yaml"), settings: Sequence[str] = ()) -> list[str]:
    """Merge profiles/<name>.yaml, then `settings`, into `path` and validate the result before writing it."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 120
    patch, source = read_profile(name), PROFILES / f"{name}.yaml"
    read_yaml(path)  # says in one line what is wrong with it
    params = _apart(yaml.load(path.read_text(encoding="utf-8")), set())
    changes = overlay(params, patch)
    for setting in settings:
        whole = setting.partition("=")[0] in REPLACED  # one name more leaves the others
        changes += overlay(params, parse_setting(setting), REPLACED if whole else ())
    text = io.StringIO()
    yaml.dump(params, text)
    parse_params(parse_yaml(text.getvalue(), path), f"{path} with {source}")
    write_text(path, text.getvalue())
    return changes


@click.command(help=help_of(__doc__))
@click.argument("name")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="One value more; again for others.")
@one_line_errors
def main(name: str, settings: tuple[str, ...]) -> None:
    changes = apply(name, settings=settings)
    for line in changes:
        click.echo(line)
    click.echo(f"{len(changes)} values of params.yaml changed; `git checkout params.yaml` undoes it")
