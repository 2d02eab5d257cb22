"""Building blocks of the parameter objects: frozen sections, pixel fractions, one-line errors.

Epsilons and step sizes are fractions of the pixel range. They are written `8/255`,
kept exact while parameters are merged and resolved, and become floats only where an
attack uses them.
"""

import difflib
import re
import textwrap
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from ruamel.yaml import YAML

from tamnas.errors import InputError
from tamnas.files import replacing

MAX_BYTES = 2**18  # of a YAML file; plans have some 5,000
MAX_VALUES = 10_000  # in a YAML file, aliases written out
MAX_DEPTH = 50
# Fraction takes any power of ten in its stride, and all memory with it: 1e999999999.
DECIMAL = re.compile(r"\s*[+-]?\d{0,30}\.?\d{0,30}([eE][+-]?\d{1,2})?\s*")


def parse_fraction(value: Any) -> Fraction:
    """`"8/255"`, `"2.5/255"`, `0.03` or a Fraction, exactly; in (0, 1]. Raises ValueError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, Fraction):
            fraction = value
        else:
            top, *bottom = str(value).split("/")
            if len(bottom) > 1 or not all(DECIMAL.fullmatch(part) for part in (top, *bottom)):
                raise ValueError
            fraction = Fraction(top.strip()) / Fraction(bottom[0].strip() if bottom else 1)
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


Positive = Annotated[int, Field(ge=1, lt=2**31)]
Ranks = Annotated[int, Field(ge=1, le=1024)]
PixelFraction = Annotated[Fraction, BeforeValidator(parse_fraction), PlainSerializer(format_fraction, return_type=str)]


def only_ints(*allowed: int) -> BeforeValidator:
    """For a `Literal` of integers: refuses True, which to Python is an integer and equal to 1."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}")
        return value

    return BeforeValidator(check)


@AfterValidator
def several(value: int) -> int:
    """For images that statistics are taken of."""
    if value == 1:
        raise ValueError("of one image BatchNorm has no variance; allowed: 0, or 2 and more")
    return value


def exactly_one(**values: Any) -> None:
    """Raises ValueError unless one of two is given."""
    given = [value is not None for value in values.values()]
    if sum(given) != 1:
        here = "both are" if any(given) else "neither is"
        raise ValueError(f"set exactly one of {' and '.join(values)}; here {here}")


def distinct(**lists: tuple) -> None:
    """Raises ValueError for the first list that holds a value twice."""
    for name, values in lists.items():
        if len(set(values)) != len(values):
            shown = ", ".join(format_fraction(value) if isinstance(value, Fraction) else str(value) for value in values)
            raise ValueError(f"{name}: {shown}: must not repeat")


class Section(BaseModel):
    """A frozen group of parameters; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def class_for(cls, raw: Mapping[str, Any]) -> type["Section"]:
        """The class that `raw` is validated as, where one of its values says which."""
        return cls

    def plain(self) -> dict:
        """Only dicts, lists, strings, numbers and None: ready for YAML or JSON."""
        return self.model_dump(mode="json")


SectionType = TypeVar("SectionType", bound=Section)


def validated(kind: type[SectionType], raw: Any, source: str) -> SectionType:
    """`raw` as a frozen `kind`. Raises InputError naming `source`, key, value and what is allowed."""
    try:
        return kind.model_validate(_tuples(raw))
    except ValidationError as error:
        errors = error.errors()
        # A misspelt key is also a missing one: the misspelling is what to mend.
        first = next((detail for detail in errors if detail["type"] == "extra_forbidden"), errors[0])
        place = ": ".join(filter(None, (source, ".".join(_shortened(str(part)) for part in first["loc"]))))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise InputError(f"{place}: no such parameter{_hint(kind, raw, first['loc'])}") from None
        if first["type"] == "missing":
            raise InputError(f"{place}: is missing") from None
        # What is at odds within a section is told by the section's own check; all of it would be too much to show.
        at_odds = first["type"] == "value_error" and isinstance(first["input"], dict)
        shown = "" if at_odds else f" is {_show(first['input'])}"
        raise InputError(f"{place}{shown}: {message}") from None


def _hint(kind: type[Section], raw: Any, place: Sequence[str | int]) -> str:
    """The allowed name nearest to the misspelt last part of `place` in `raw`, or all that are allowed there."""
    section = kind
    for part in place[:-1]:  # keys of a mapping, indices of a list: no field
        raw = raw[part]
        if part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    names = list(section.class_for(raw).model_fields)
    near = difflib.get_close_matches(str(place[-1]), names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {textwrap.shorten(', '.join(names), 120, placeholder=' ...')}"


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that an annotation such as `dict[str, Section] | None` holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def read_yaml(path: Path | str) -> dict:
    """A YAML mapping as plain Python. Raises InputError for a missing or malformed file."""
    try:
        blob = Path(path).read_bytes()
        if len(blob) > MAX_BYTES:
            raise InputError(f"{path}: {len(blob):,} bytes; a file of parameters has at most {MAX_BYTES:,}")
        text = blob.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    raw = parse_yaml(text, path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold a mapping of parameters, found {_show(raw)}")
    return raw


def parse_yaml(text: str, what: Path | str) -> Any:
    """A YAML value as plain Python. Raises InputError, which names `what`, for a malformed or very large one."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # besides its own errors, YAML lets those of int(), dates and recursion through
        raise InputError(f"{what}: is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    _require_small(what, value)
    return value


def _require_small(what: Path | str, raw: Any) -> None:
    """Aliases (`*name`) can make a few lines expand to any size, or contain themselves."""
    waiting, count = [(raw, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise InputError(f"{what}: more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, aliases written out")
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(item, depth + 1) for item in value]


def write_yaml(path: Path, plain: dict) -> None:
    """Write `plain` with block-style lists of one line each, keys in the order given."""
    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    with replacing(path) as file:
        yaml.dump(plain, file)


def _show(value: Any) -> str:
    return _shortened(repr(_lists(value)))


def _shortened(text: str) -> str:
    """In one line, and of a length that a terminal takes."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else text[:77] + "..."


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
