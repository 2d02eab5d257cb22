"""The command `tamnas`. Each of its commands is a module that is imported when it is called: help takes no torch."""

from pkgutil import resolve_name
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from tamnas import __version__
from tamnas.pipeline.code import ROOT


class Entry(NamedTuple):
    """Where a command is defined, and what the overview says of it."""

    place: str
    summary: str


STUDY = {  # these work with the stages, parameters and results of a checkout
    "profile": Entry("tamnas.pipeline.profiles:main", "Set params.yaml up for a study: smoke, paper-cifar10, ..."),
    "synthetic": Entry("tamnas.data.synthetic:main", "Write the small images that the profile smoke trains on."),
    "run": Entry("tamnas.pipeline.runner:main", "Run the stages of params.yaml, in order, without DVC."),
    "release": Entry("tamnas.cli.release:release", "Write the final networks of the finished run into models/."),
    "unpack": Entry("tamnas.pipeline.pack:unpack_command", "Put a run of another machine into this checkout."),
    "keep": Entry("tamnas.pipeline.pack:keep_command", "Store the small results of such a run in a folder."),
}
LOOK = {
    "import-images": Entry("tamnas.cli.import_images:import_images", "Check your own images before a run."),
    "watch": Entry("tamnas.cli.watch:watch", "Follow the run of this checkout while it goes on."),
    "show": Entry("tamnas.cli.show:show", "Show the run, the front of a row, or one network."),
    "compare": Entry("tamnas.cli.compare:compare", "Put two networks or two runs side by side."),
}
USE = {
    "models": Entry("tamnas.cli.models:models", "List the released networks and their figures."),
    "predict": Entry("tamnas.cli.predict:predict", "Classify images, and tell how stable each answer is."),
    "evaluate": Entry("tamnas.cli.evaluate:evaluate", "Attack any model."),
    "export": Entry("tamnas.cli.export:export", "Write a network as ONNX, torch.export or ExecuTorch file."),
}
SECTIONS = {"Use networks": USE, "Look at results": LOOK, "Run a study": STUDY}
ENTRIES = USE | LOOK | STUDY


class Commands(click.Group):
    """Finds its commands in `ENTRIES`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in ENTRIES:
            return None
        if name in STUDY and not (ROOT / "dvc.yaml").is_file():
            raise click.UsageError(f"{name}: works in a checkout of tamnas, with its own code; this one is in {ROOT}")
        return resolve_name(ENTRIES[name].place)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing every command."""
        items = [CompletionItem(name, help=entry.summary) for name, entry in ENTRIES.items()]
        return [item for item in items if item.value.startswith(incomplete)] or click.Command.shell_complete(
            self, context, incomplete
        )

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, or stopped at a deadline; 1 failed; 2 bad input, in one line; 130 interrupted.",
)
@click.version_option(__version__, prog_name="tamnas")
def main() -> None:
    """Tiny image classifiers that resist attack: search for them, and use those that were found.

    `tamnas COMMAND --help` says more about each command.
    """
