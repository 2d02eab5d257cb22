"""The options that every benchmark takes."""

from pathlib import Path

import click

from tamnas.pipeline.command import help_of, one_line_errors

OPTIONS = (
    click.option("--row", help="A row of params.yaml.  [default: the first]"),
    click.option("--device", "where", default="auto", show_default=True, help="auto, cpu or cuda"),
    click.option("--threads", default=1, show_default=True, help="CPU threads"),
    click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file."),
)


ROUNDS = click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns; figures are their medians."
)
GEOMETRY = click.option(
    "--geometry",
    type=click.Choice(["row", "paper"]),
    default="row",
    show_default=True,
    help="Search space and image size: the row's, or the paper's.",
)


class Numbers(click.ParamType):
    """Numbers, separated by commas, each at least `least`."""

    name = "numbers"

    def __init__(self, kind: type = int, least: float = 1):
        self.kind, self.least = kind, least

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        try:
            numbers = [self.kind(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < self.least:
            self.fail(f"{value!r}; allowed: numbers of at least {self.least}, separated by commas", param, ctx)
        return numbers


def benchmark(function):
    """A click command with the common options and the module's docstring as its help."""
    command = one_line_errors(function)
    for option in reversed(OPTIONS):
        command = option(command)
    return click.command(help=help_of(function.__globals__["__doc__"]))(command)
