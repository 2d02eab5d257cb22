"""Building blocks of the parameter objects: frozen sections, pixel fractions, one-line errors.

Epsilons and step sizes are fractions of the pixel range. They are written `8/255`,
kept exact while parameters are merged and resolved, and become floats only where an
attack uses them.
"""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tamnas.errors import InputError

FORMAT = 1  # version of every YAML, JSON and checkpoint file that tamnas writes


def parse_fraction(value: Any) -> Fraction:
    """`"8/255"`, `"2.5/255"`, `0.03` or a Fraction, exactly; in (0, 1]. Raises ValueError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str):
            top, *bottom = value.split("/")
            if len(bottom) > 1:
                raise ValueError
            fraction = Fraction(top.strip()) / Fraction(bottom[0].strip() if bottom else 1)
        else:
            fraction = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a fraction of the pixel range such as 8/255") from None
    if not 0 < fraction <= 1:
        raise ValueError("must be a fraction of the pixel range such as 8/255, above 0 and at most 1")
    return fraction


def format_fraction(value: Fraction) -> str:
    """The inverse of `parse_fraction`: over 255 where that is a short decimal, else p/q."""
    steps = value * 255
    short = f"{float(steps):.4g}"
    if Fraction(short) == steps:
        return f"{short}/255"
    return f"{value.numerator}/{value.denominator}"


PixelFraction = Annotated[Fraction, BeforeValidator(parse_fraction), PlainSerializer(format_fraction, return_type=str)]


class Section(BaseModel):
    """A frozen group of parameters; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def plain(self) -> dict:
        """Only dicts, lists, strings, numbers and None: ready for YAML or JSON."""
        return _lists(self.model_dump())


SectionType = TypeVar("SectionType", bound=Section)


def validated(kind: type[SectionType], raw: Any, source: str) -> SectionType:
    """`raw` as a frozen `kind`. Raises InputError naming `source`, key, value and what is allowed."""
    try:
        return kind.model_validate(_tuples(raw))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise InputError(f"{source}: {key}: no such parameter") from None
        if first["type"] == "missing":
            raise InputError(f"{source}: {key}: is missing") from None
        shown = "" if first["type"] == "value_error" and not first["loc"] else f" is {_show(first['input'])}"
        raise InputError(f"{source}: {key}{shown}: {message}") from None


def read_yaml(path: Path | str) -> dict:
    """A YAML mapping as plain Python. Raises InputError for a missing or malformed file."""
    try:
        raw = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    except YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold a mapping of parameters, found {_show(raw)}")
    return raw


def write_yaml(path: Path, plain: dict) -> None:
    """Write `plain` with block-style lists of one line each, keys in the order given."""
    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(plain, file)


def _show(value: Any) -> str:
    text = repr(_lists(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
