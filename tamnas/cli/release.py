import re
from pathlib import Path

import click

from tamnas.errors import InputError
from tamnas.files import shown
from tamnas.pipeline.command import one_line_errors


@click.command()
@click.argument("names", metavar="[NETWORK]...", nargs=-1)
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), default="models", show_default=True)
@click.option("--study", help="Call them STUDY/..., not DATASET/...: for several studies of the same images.")
@one_line_errors
def release(names: tuple[str, ...], folder: Path, study: str | None) -> None:
    """Write networks of the finished run here to models/: the final ones, or each NETWORK.

    Final are, of each dataset: of its best row by validation the best subnet from scratch (DATASET/searched), the best
    fine-tuned one (finetuned) and Lego-Net (lego); the pooled Lego-Net (lego-pooled); every hand-made network. Others
    are called ROW/ID, ROW/ID-finetuned and ROW/lego. Each becomes one safetensors file, with its architecture, its
    training and its accuracies in the header, and a page that says the same.

    Reads plan/, results/ and runs/.
    """
    from tamnas.release.references import networks_of, run_of
    from tamnas.release.trained import card, finals, write_release

    run = run_of(Path())
    known = networks_of(run)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{shown(unknown[0])}: is no network of this run; there are: {', '.join(known)}")
    if study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", study):
        raise InputError(f"--study is {shown(study)}; allowed: letters, digits, _ and -, the first a letter or digit")
    if study and len(run) > 1:
        raise InputError(f"--study is {shown(study)}: this run has {len(run)} datasets; allowed: for a run of one")
    for name in names or [name for dataset in run for name in finals(dataset)]:
        tested, dataset = known[name]
        own = f"{study}/{name.removeprefix(f'{dataset.name}/')}" if study else name
        its = card(name, tested, dataset).model_copy(update={"name": own})
        path = write_release(tested, its, folder)
        click.echo(f"{path}: {its.title}, {path.stat().st_size / 2**20:.2f} MiB")
