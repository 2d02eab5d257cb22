"""The options that every benchmark takes."""

from pathlib import Path

import click

from tamnas.stage import one_line_errors

OPTIONS = (
    click.option("--row", help="A row of params.yaml.  [default: the first]"),
    click.option("--device", "where", default="auto", show_default=True, help="auto, cpu or cuda"),
    click.option("--threads", default=1, show_default=True, help="CPU threads"),
    click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file."),
)


def benchmark(function):
    """A click command with the common options and the module's docstring as its help."""
    command = one_line_errors(function)
    for option in reversed(OPTIONS):
        command = option(command)
    return click.command(help=function.__globals__["__doc__"].replace("\n\n", "\n\n\b\n"))(command)
