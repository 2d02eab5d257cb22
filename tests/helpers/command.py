"""The command `tamnas`, in this process."""

import json

from click.testing import CliRunner, Result

from tamnas.cli.main import main
from tests.helpers.refusals import one_line


def tamnas(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="tamnas")


def output(*arguments: object) -> str:
    """What it prints when all is well."""
    result = tamnas(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def answer(*arguments: object):
    """Its `--json`, read."""
    return json.loads(output(*arguments, "--json"))


def refusal(*arguments: object) -> str:
    """Its one line of bad input."""
    result = tamnas(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return one_line(result.stderr.splitlines(keepends=True)[-1])
