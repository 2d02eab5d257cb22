"""A run in a few small files: results, reports, plans, the best networks' weights; and back again.

    python -m tamnas.pipeline.pack unpack FOLDER [--best] # into the working directory, a checkout
    python -m tamnas.pipeline.pack keep FOLDER TARGET     # what stays of a run: docs/results/<name>

`python -m tamnas.pipeline.runner --pack FOLDER` writes manifest.json and run.tar.gz.00, .01, ...: parts of
one archive, at most 16 MiB each. Without tamnas: `cat run.tar.gz.* | tar -xz`. The manifest says
which commit ran where, for how long, what is not finished, and the sha256 of every part.
"""

import csv
import gzip
import hashlib
import io
import logging
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import click

from tamnas.config.plan import FOLDER as PLANS
from tamnas.config.plan import StudyPlan, load_study
from tamnas.errors import InputError
from tamnas.files import FORMAT, read_json, write_json, write_text
from tamnas.pipeline.command import one_line_errors
from tamnas.pipeline.paths import LOGS, results, seeded, weights
from tamnas.pipeline.store import checkpoints_root
from tamnas.records import best, read_records

log = logging.getLogger(__name__)

MIB = 2**20
PART = 16 * MIB
PARTS = 7  # with the manifest eight files
ARCHIVE = "run.tar.gz"
ENTRY = 2048  # bytes of an archive beside a file's own, at most
# What a packed run may hold: it may come from a stranger, and lands in a checkout with code and hooks.
PLACES = {
    "plan": (".yaml",),
    "logs": (".csv",),
    "results": (".csv", ".json"),
    "reports": (".csv", ".html", ".json", ".md", ".png", ".svg", ".tex"),
    "runs": (".json", ".safetensors"),
    ".checkpoints": (".json", ".jsonl", ".safetensors"),
}
UNPACKED = 1024 * MIB


# -- what goes in ------------------------------------------------------------------------------


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
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--", "tamnas", "stages") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def members(with_checkpoints: bool) -> Iterator[tuple[Path, bytes]]:
    """(path, contents) in order of worth; paths below the working directory."""
    study = load_study()
    names = [*study.rows, *study.datasets]
    files = [Path("params.yaml"), *sorted(PLANS.rglob("*.yaml")), LOGS / "times.csv"]
    for dataset in sorted(study.datasets):
        files += sorted(path for path in (Path("results") / dataset).rglob("*") if path.is_file())
    files += [weights(name, "start-scratch.json") for name in names]
    files += sorted(path for path in Path("reports").rglob("*") if path.is_file())
    for path in files:
        if path.is_file():
            yield path, path.read_bytes()
    yield from _networks(study)
    if with_checkpoints:
        for path in [weights(name, "start-finetune.safetensors") for name in names] + _newest_checkpoints():
            if path.is_file():
                inside = path.is_relative_to(checkpoints_root())
                yield Path(".checkpoints") / path.relative_to(checkpoints_root()) if inside else path, path.read_bytes()


def _networks(study: StudyPlan) -> Iterator[tuple[Path, bytes]]:
    """The trained networks with the weights that the reports show, the most robust on validation first."""
    from tamnas.pipeline import checkpoint

    found = []
    for name, plan in {**study.rows, **study.datasets}.items():
        is_row = name in study.rows
        for stage in ("retrain_scratch", "retrain_finetune", "legonet") if is_row else ("legonet_pooled", "baselines"):
            path = seeded(results(plan.dataset, stage, name if is_row else None), plan.seed) / "validation.json"
            folder = weights(name, stage.removesuffix("_pooled"))
            for record in read_records(path) if path.is_file() else ():
                score = record.score(plan.eval.weights)
                worth = (stage != "baselines", score.robust, score.clean)
                found.append((worth, folder / f"{record.id}.safetensors", plan.eval.weights))
    for _, path, shown in sorted(found, key=lambda one: (one[0], str(one[1])), reverse=True):
        if path.is_file():
            tensors, meta = checkpoint.load(path)
            kept = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{shown}.")}
            yield path, checkpoint.pack(kept, meta)


def _newest_checkpoints() -> list[Path]:
    files = [path for path in checkpoints_root().rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in (".lock", ".previous", ".tmp")]
    return sorted(files, key=lambda path: (-path.stat().st_mtime, str(path)))


# -- there and back ----------------------------------------------------------------------------


def pack(folder: Path, facts: dict, mib: int, with_checkpoints: bool = False) -> dict:
    """Write the parts and manifest.json (`facts`: see `about`), at most `mib` MiB in all; returns the manifest.

    What would not fit is left out and listed; equal contents give equal bytes.
    """
    limit, size = min(mib * MIB, PARTS * PART) - MIB // 2, 0  # half a MiB for the manifest and the archive's end
    chosen: dict[str, bytes] = {}
    left_out = []
    for path, contents in members(with_checkpoints):
        if size + len(contents) + ENTRY > limit:
            left_out.append(f"{path.as_posix()} ({len(contents) / MIB:.1f} MiB)")
        else:
            chosen[path.as_posix()] = contents
            size += len(contents) + ENTRY
    blob = _archive(chosen)
    for old in folder.glob(f"{ARCHIVE}.*"):
        old.unlink()
    parts = {}
    for index, start in enumerate(range(0, len(blob), PART)):
        name, part = f"{ARCHIVE}.{index:02d}", blob[start : start + PART]
        (folder / name).write_bytes(part)
        parts[name] = {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
    manifest = {**facts, "parts": parts, "files": len(chosen), "left_out": left_out}
    write_json(folder / "manifest.json", manifest)
    log.info("%s: %d files in %d parts, %.1f MiB", folder, len(chosen), len(parts), len(blob) / MIB)
    if left_out:
        log.warning("left out, no room: %s", ", ".join(left_out))
    return manifest


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A gzipped tar without times, owners or any order but the names'."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return raw.getvalue()


def unpack(folder: Path, target: Path = Path()) -> dict:
    """Check every part and extract into `target`; returns the manifest. Raises InputError."""
    manifest = read_json(folder / "manifest.json")
    packed = io.BytesIO(b"".join(_parts(folder, manifest)))
    try:
        with gzip.GzipFile(fileobj=packed) as stream:
            raw = stream.read(UNPACKED + 1)
        if len(raw) > UNPACKED:
            raise InputError(f"{folder}: the archive unpacks to more than {UNPACKED // MIB} MiB")
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            tar.extractall(target, members=_allowed(tar, folder), filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{folder}: is no packed run ({error})") from None
    return manifest


def _parts(folder: Path, manifest: dict) -> list[bytes]:
    parts = manifest.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(part, dict) and "sha256" in part for part in parts.values()):
        raise InputError(f"{folder / 'manifest.json'}: is not the manifest of a packed run")
    found = []
    for name, expected in parts.items():
        part = folder / name
        if not re.fullmatch(re.escape(ARCHIVE) + r"\.\d\d", name):
            raise InputError(f"{folder / 'manifest.json'}: a part is called {name!r}; allowed: {ARCHIVE}.00 and so on")
        if not part.is_file():
            raise InputError(f"{part}: is missing")
        found.append(part.read_bytes())
        if hashlib.sha256(found[-1]).hexdigest() != expected["sha256"]:
            raise InputError(f"{part}: is damaged: its checksum does not match")
    return found


def _allowed(tar: tarfile.TarFile, folder: Path) -> list[tarfile.TarInfo]:
    """All members, before any is extracted. Raises InputError for one that is no data of a run."""
    found = tar.getmembers()
    for member in found:
        path = PurePosixPath(member.name)
        known = member.name == "params.yaml" or path.suffix in PLACES.get(path.parts[0] if path.parts else "", ())
        if not (known and member.isreg() and ".." not in path.parts):
            allowed = f"params.yaml and data files below {', '.join(PLACES)}"
            raise InputError(f"{folder}: the archive holds {member.name[:200]!r}; allowed: {allowed}")
    return found


def keep_best_start(row: str) -> str | None:
    """Of a row's start points keep the most robust subnet on validation; its id, None if nothing is trained."""
    plan, start = load_study().rows[row], weights(row, "start-scratch.json")
    trained = seeded(results(plan.dataset, "retrain_scratch", row), plan.seed) / "validation.json"
    if not (start.is_file() and trained.is_file()):
        return None
    chosen, plain = best(read_records(trained), plan.eval.weights).id, read_json(start)
    write_json(start, plain | {"networks": [one for one in plain["networks"] if one["id"] == chosen]})
    return chosen


def keep(folder: Path, target: Path) -> None:
    """Write what stays of a packed run: its reports, parameters, small results, and run.md. Raises InputError.

    Replaces what an earlier `keep` wrote; pages that people wrote beside it stay.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        manifest = unpack(folder, source)
        for old in ("reports", "plan", "results"):
            shutil.rmtree(target / old, ignore_errors=True)
            if (source / old).is_dir():
                shutil.copytree(source / old, target / old)
        shutil.copy(source / "params.yaml", target / "params.yaml")
        times = _stage_times(source / LOGS / "times.csv")
    write_text(target / "run.md", _run_page(manifest, times))


def _stage_times(path: Path) -> list[tuple[str, str, float, int]]:
    """(stage, instance, seconds, pieces): wall times summed over the pieces in which a stage ran."""
    found: dict[tuple[str, str], list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for _, stage, instance, seconds in csv.reader(file):
            found.setdefault((stage, instance), []).append(float(seconds))
    return [(*key, sum(seconds), len(seconds)) for key, seconds in found.items()]


def _run_page(manifest: dict, times: list[tuple[str, str, float, int]]) -> str:
    lines = [
        "# The run\n",
        f"- Commit: {manifest['commit']}",
        f"- Device: {manifest['device']}; Python {manifest['python']}, torch {manifest['torch']}",
        f"- Wall time of the last piece: {manifest['seconds']:.0f} s; of all stages: {sum(t[2] for t in times):.0f} s",
        "- Finished: " + ("all stages" if not manifest["unfinished"] else "not these:"),
        *(f"  - {line}" for line in manifest["unfinished"]),
        "\n| stage | instance | wall time (s) | pieces |\n| --- | --- | ---: | ---: |",
        *(f"| {stage} | {instance} | {seconds:.1f} | {pieces} |" for stage, instance, seconds, pieces in times),
    ]
    return "\n".join(lines) + "\n"


@click.group(help=__doc__.replace("\n\n", "\n\n\b\n"))
def main() -> None:
    pass


@main.command("unpack", help="Extract a packed run into the working directory, over what is there.")
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


@main.command("keep", help="Write reports, parameters, small results and run.md of a packed run to TARGET.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@one_line_errors
def keep_command(folder: Path, target: Path) -> None:
    keep(folder, target)
    click.echo(f"{target}: written")


if __name__ == "__main__":
    main()
