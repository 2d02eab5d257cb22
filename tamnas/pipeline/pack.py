"""A run in one archive: results, reports, plans, the networks' weights; and back again.

    tamnas unpack FOLDER [--best]    # into the working directory, a checkout
    tamnas keep FOLDER TARGET        # what stays of a run: docs/results/<name>

`tamnas run --pack FOLDER` writes run.tar.gz, and manifest.json: which commit ran where,
for how long, what is not finished, and the sha256 of the archive.
"""

import gzip
import hashlib
import io
import logging
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

import click

from tamnas.config.plan import PLANS, StudyPlan, load_study
from tamnas.errors import InputError
from tamnas.evaluation.kinds import KINDS
from tamnas.files import FORMAT, read_json, remove, replacing, write_json, write_text
from tamnas.pipeline.command import one_line_errors
from tamnas.pipeline.live import ended
from tamnas.pipeline.paths import TIMES, runs, seeded, validation
from tamnas.pipeline.store import checkpoints_root
from tamnas.records import best, read_records

log = logging.getLogger(__name__)

MIB = 2**20
ARCHIVE = "run.tar.gz"
ENTRY = 2048  # bytes of an archive beside a file's own, at most
MOST = 1024  # MiB of files that a pack may hold
# What a packed run may hold: it may come from a stranger, and lands in a checkout with code and hooks.
PLACES = {
    "plan": (".yaml",),
    "logs": (".csv",),
    "results": (".csv", ".json"),
    "reports": (".csv", ".html", ".json", ".md", ".png", ".svg", ".tex"),
    "runs": (".json", ".safetensors"),
    ".checkpoints": (".json", ".jsonl", ".safetensors"),
}
MANIFEST = ("commit", "device", "python", "torch", "seconds", "unfinished", "files", "sha256")


def about(unfinished: list[str], seconds: float, commit: str | None) -> dict:
    """What ran, where and for how long, JSON-able."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "format": FORMAT,
        "commit": commit or head(),
        "device": gpu or platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "unfinished": unfinished,
    }


def head() -> str:
    """The commit of the working directory, with `-dirty` where its code differs; parameters are packed anyway."""
    try:
        changed = _git("status", "--porcelain", "--", "tamnas", "stages", "plugins", "dvc.yaml")
        return _git("rev-parse", "HEAD") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _is_data(path: PurePath) -> bool:
    """Whether a packed run may hold it."""
    return str(path) == "params.yaml" or path.suffix in PLACES.get(path.parts[0] if path.parts else "", ())


def members(with_checkpoints: bool) -> Iterator[tuple[Path, bytes]]:
    """(path, contents) in order of worth; paths below the working directory."""
    study = load_study()
    names = [*study.rows, *study.datasets]
    starts = (runs(name, "start-scratch.json") for name in names)
    small = (Path("results") / dataset for dataset in sorted(study.datasets))
    for root in (Path("params.yaml"), PLANS, TIMES, *small, *starts, Path("reports")):
        for path in sorted([root, *root.rglob("*")]):
            if path.is_file():
                yield path, path.read_bytes()
    yield from _networks(study)
    if with_checkpoints:
        for path in (runs(name, "start-finetune.safetensors") for name in names):
            if path.is_file():
                yield path, path.read_bytes()
        checkpoints = [path for path in checkpoints_root().rglob("*") if path.suffix in PLACES[".checkpoints"]]
        for path in sorted(checkpoints, key=lambda path: (-path.stat().st_mtime, str(path))):  # the newest first
            yield Path(".checkpoints") / path.relative_to(checkpoints_root()), path.read_bytes()


def _networks(study: StudyPlan) -> Iterator[tuple[Path, bytes]]:
    """The trained networks with the weights that the reports show, the most robust first, controls last."""
    from tamnas.pipeline import checkpoint

    networks = []
    for name, plan in {**study.rows, **study.datasets}.items():
        row = name if name in study.rows else None
        for kind in (kind for kind in KINDS.values() if kind.per_row == bool(row)):
            folder, controls = runs(name, kind.folder), kind.folder == "controls"
            for seed in (plan.seed, *(plan.seeds if controls else ())):
                path = validation(plan.dataset, kind.trained_by, row, seed)
                own = seeded(folder, seed) if controls else folder
                for record in read_records(path) if path.is_file() else ():
                    score, shown = record.score(plan.eval.weights), f"{plan.eval.weights}."
                    merit = not controls, kind.folder != "baselines", score.robust, score.clean
                    networks.append((merit, own / f"{record.id}.safetensors", shown))
    for _, path, shown in sorted(networks, reverse=True):
        if path.is_file():
            tensors, meta = checkpoint.load(path)
            yield (
                path,
                checkpoint.to_bytes({key: value for key, value in tensors.items() if key.startswith(shown)}, meta),
            )


def pack(folder: Path, facts: dict, mib: int = MOST, with_checkpoints: bool = False) -> dict:
    """Write run.tar.gz and manifest.json (`facts`: see `about`); returns the manifest.

    Files beyond `mib` MiB in all are left out and listed; equal contents give equal bytes.
    """
    size = files = 0
    left_out = []
    with (
        replacing(folder / ARCHIVE) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path, contents in members(with_checkpoints):
            if not _is_data(path):
                left_out.append(f"{path.as_posix()} (no data of a run)")
                continue
            if size + len(contents) + ENTRY > mib * MIB:
                left_out.append(f"{path.as_posix()} (no room for {len(contents) / MIB:.1f} MiB)")
                continue
            entry = tarfile.TarInfo(path.as_posix())  # without time or owner
            entry.size = len(contents)
            tar.addfile(entry, io.BytesIO(contents))
            size, files = size + len(contents) + ENTRY, files + 1
    digest = hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest()
    manifest = {**facts, "files": files, "left_out": left_out, "sha256": digest}
    write_json(folder / "manifest.json", manifest)
    log.info("%s: %d files, %.1f MiB", folder, files, (folder / ARCHIVE).stat().st_size / MIB)
    if left_out:
        log.warning("left out: %s", ", ".join(left_out))
    return manifest


def unpack(folder: Path, target: Path = Path()) -> dict:
    """Check the archive and extract it into `target`; returns the manifest. Raises InputError."""
    manifest, archive = read_json(folder / "manifest.json"), folder / ARCHIVE
    if lacking := [key for key in MANIFEST if key not in manifest]:
        raise InputError(f"{folder / 'manifest.json'}: {lacking[0]} is missing: no manifest of a packed run")
    if not archive.is_file():
        raise InputError(f"{archive}: is missing")
    blob = archive.read_bytes()
    if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
        raise InputError(f"{archive}: is damaged: its checksum does not match")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(blob)) as stream:
            raw = stream.read((MOST + 1) * MIB)
        if len(raw) == (MOST + 1) * MIB:
            raise InputError(f"{folder}: the archive unpacks to more than {MOST} MiB")
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            tar.extractall(target, members=_allowed(tar, folder), filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{folder}: is no packed run ({error})") from None
    return manifest


def _allowed(tar: tarfile.TarFile, folder: Path) -> list[tarfile.TarInfo]:
    """All members, before any is extracted. Raises InputError for one that is no data of a run."""
    members = tar.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        if not (_is_data(path) and member.isreg() and ".." not in path.parts):
            allowed = f"params.yaml and data files below {', '.join(PLACES)}"
            raise InputError(f"{folder}: the archive holds {member.name[:200]!r}; allowed: {allowed}")
    return members


def keep_best_start(row: str) -> str | None:
    """Of a row's start points keep the most robust subnet on validation; its id, None if nothing is trained."""
    plan, start = load_study().rows[row], runs(row, "start-scratch.json")
    trained = validation(plan.dataset, "retrain_scratch", row, plan.seed)
    if not (start.is_file() and trained.is_file()):
        return None
    chosen, plain = best(read_records(trained), plan.eval.weights).id, read_json(start)
    write_json(start, plain | {"networks": [network for network in plain["networks"] if network["id"] == chosen]})
    return chosen


def keep(folder: Path, target: Path) -> None:
    """Write what stays of a packed run in place of an earlier `keep`; other pages there stay. Raises InputError."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        manifest = unpack(folder, source)
        for needed in (Path("params.yaml"), TIMES):
            if not (source / needed).is_file():
                raise InputError(f"{folder}: the archive lacks {needed}; nothing was written")
        page = _run_page(manifest, source / TIMES)
        for old in ("reports", "plan", "results"):
            remove(target / old)
            if (source / old).is_dir():
                shutil.copytree(source / old, target / old)
        shutil.copy(source / "params.yaml", target / "params.yaml")
        write_text(target / "run.md", page)


def _run_page(manifest: dict, times: Path) -> str:
    pieces = defaultdict(list)
    for piece in ended(times):
        pieces[piece.stage, piece.instance].append(piece.seconds)
    whole = sum(map(sum, pieces.values()))
    lines = [
        "# The run\n",
        f"- Commit: {manifest['commit']}",
        f"- Device: {manifest['device']}; Python {manifest['python']}, torch {manifest['torch']}",
        f"- Wall time of the last piece: {manifest['seconds']:.0f} s; of all stages: {whole:.0f} s",
        "- Finished: " + ("all stages" if not manifest["unfinished"] else "not these:"),
        *(f"  - {line}" for line in manifest["unfinished"]),
        "\n| stage | instance | wall time (s) | pieces |\n| --- | --- | ---: | ---: |",
        *(f"| {' | '.join(key)} | {sum(own):.1f} | {len(own)} |" for key, own in pieces.items()),
    ]
    return "\n".join(lines) + "\n"


@click.command(help="Extract a packed run into the working directory, over what is there.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--best", "only_best", is_flag=True, help="Of each row's start points keep the best subnet, to retrain it."
)
@one_line_errors
def unpack_command(folder: Path, only_best: bool) -> None:
    manifest = unpack(folder)
    for row in load_study().rows if only_best else ():
        click.echo(f"{row}: start-scratch.json keeps {keep_best_start(row) or 'all: nothing is trained'}")
    click.echo(f"{manifest['files']} files of commit {manifest['commit']}; `python -m stages.tables` makes the reports")


@click.command(help="Write reports, parameters, small results and run.md of a packed run to TARGET.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@one_line_errors
def keep_command(folder: Path, target: Path) -> None:
    keep(folder, target)
    click.echo(f"{target}: written")
