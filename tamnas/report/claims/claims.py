"""The paper's conclusions, each with the test that decides it from this run's results: reports/claims.md.

A claim is judged on each dataset apart. Every test is stated before its result is known: claims.yaml says in words
what `judges` and `lego` compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tamnas.config.fields import read_yaml
from tamnas.report.claims import judges, lego
from tamnas.report.claims.judges import Judge
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, Finding
from tamnas.report.study import Dataset
from tamnas.report.tables.table import Column, Table, markdown
from tamnas.report.terms import OFFICIAL, counted, images_text


@dataclass(frozen=True)
class Claim:
    """`text`: the paper's conclusion in our words; `where` it is drawn; `test`: what decides it; `judge` does."""

    key: str
    text: str
    where: str
    test: str

    @property
    def judge(self) -> Judge:
        return (vars(judges) | vars(lego))[self.key]


CLAIMS = [Claim(key, **texts) for key, texts in read_yaml(Path(__file__).with_name("claims.yaml")).items()]
RULES = (
    f'A claim "{HOLDS}" or "{FAILS}" only where its test decides; "{UNDECIDED}": the data are compatible with both; '
    f'"{NOT_RUN}": this run has no results that could decide. A claim of several parts fails with one of them.',
    "Differences are in percentage points with their 95% interval, or one of the level that is said. Intervals over "
    "subnets cover their choice and the noise of their training, those over modes or searches another supernet, too; "
    "those over images cover images alone, where a test does not say that it covers training.",
)
SMALL_NETWORKS, SMALL_IMAGES = 10, 1000


def judged(datasets: Sequence[Dataset]) -> list[tuple[Claim, Dataset, Finding]]:
    """Every claim on every dataset, without what learnt nothing there."""
    learnt = [dataset.learnt()[0] for dataset in datasets]
    return [(claim, dataset, claim.judge(dataset)) for claim in CLAIMS for dataset in learnt]


def claims_table(datasets: Sequence[Dataset]) -> Table:
    """One line per claim and dataset."""
    lines = []
    for claim, dataset, finding in judged(datasets):
        warned = [finding.numbers, *(caveats(dataset) if finding.verdict != NOT_RUN else [])]
        lines.append(
            {
                Column("verdict", "Verdict"): finding.verdict,
                Column("claim", "The paper's conclusion"): claim.text,
                Column("dataset", "Dataset"): dataset.name,
                Column("where", "Section"): claim.where,
                Column("numbers", "Numbers"): "; ".join(warned),
            }
        )
    notes = [*RULES, *(f"{claim.text}: {claim.test}" for claim in CLAIMS), *scope(datasets)]
    return Table.of("claims", "The paper's conclusions, judged by this run", lines, notes)


def scope(datasets: Sequence[Dataset]) -> list[str]:
    """What `robust` means in the claims, and which networks they leave out."""
    robust = ((dataset.name, dataset.key_attack.text) for dataset in datasets)
    lines = [f"Robust, {name}: {attack}, on test images where not said otherwise." for name, attack in robust]
    return lines + [
        f"Left out, {dataset.name}, being at chance: {', '.join(names)}."
        for dataset in datasets
        if (names := dataset.learnt()[1])
    ]


def caveats(dataset: Dataset) -> list[str]:
    """What makes any verdict on this dataset weak."""
    n = dataset.images["test"]
    networks = min((len(row.scratch) for row in dataset.rows), default=0)
    small = [counted(n, "test image")] if n < SMALL_IMAGES else []
    small += [f"{counted(networks, 'retrained subnet')} a mode"] if networks < SMALL_NETWORKS else []
    reasons = [f"small sample ({', '.join(small)})"] if small else []
    images = images_text(dataset) or f"source {dataset.plan.data.source}"
    in_full = {title for title, *official in OFFICIAL.values() if official}
    return reasons + ([f"not the paper's images ({images})"] if images not in in_full else [])


def claims_page(datasets: Sequence[Dataset]) -> str:
    """reports/claims.md."""
    return markdown(claims_table(datasets))
