"""The networks that a word on the command line stands for: released ones, those of a run."""

import logging
from collections.abc import Sequence
from contextlib import chdir, suppress
from pathlib import Path

from tamnas.config.plan import STUDY, StudyPlan, load_study
from tamnas.config.resolve import load_params, resolve_study
from tamnas.errors import InputError
from tamnas.files import shown
from tamnas.release.card import Card, is_released, locate, read_card, released
from tamnas.release.trained import card, finals, networks
from tamnas.report.collect import collect
from tamnas.report.study import Dataset, Tested

log = logging.getLogger(__name__)


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (STUDY, "params.yaml"))


def run_of(folder: Path) -> list[Dataset]:
    """The run whose results lie in `folder`; without plans, as in a fresh clone, what params.yaml says. Raises
    InputError.
    """
    if not is_run(folder):
        raise InputError(f"{shown(folder.resolve())}: holds no run (no plan/, no params.yaml)")
    try:
        with chdir(folder):
            return collect(_study())
    except InputError as error:
        raise InputError(f"{shown(folder)}/{error}" if folder != Path() else str(error)) from None


def _study() -> StudyPlan:
    if not STUDY.is_file():
        return resolve_study(load_params())
    study = load_study()
    with suppress(InputError):  # a run of an earlier version may have parameters of before
        if study != resolve_study(load_params()):
            log.warning(
                "%s is not what params.yaml says now, and is what counts here; `dvc repro plan` renews it", STUDY
            )
    return study


def networks_of(datasets: Sequence[Dataset]) -> dict[str, tuple[Tested, Dataset]]:
    """Every network of a run by its names, and whose it is."""
    return {name: (network, dataset) for dataset in datasets for name, network in networks(dataset).items()}


def cards(word: str) -> dict[str, Card]:
    """The card of a released network, or of its file, or of a network of the run here; of all final networks of the run
    in a folder. Raises InputError.
    """
    if Path(word).is_dir():
        run = run_of(Path(word))
        return {name: card(name, final, dataset) for dataset in run for name, final in finals(dataset).items()}
    if is_released(word):
        own = read_card(locate(word))
        return {own.name: own}
    known = networks_of(run_of(Path())) if is_run(Path()) else {}
    if word not in known:
        raise InputError(
            f"{shown(word)}: is no released network ({', '.join(released()) or 'none'}), no network of the run here "
            f"({', '.join(known) or 'none'}) and no folder of a run"
        )
    return {word: card(word, *known[word])}
