"""The paper's conclusions, each with the test that decides it from this run's results: reports/claims.md.

A claim is judged on each dataset apart. Every test is stated before its result is known: this module says in words
what `judges` computes, and a change of either is a change of the test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tamnas.report.claims import judges
from tamnas.report.claims.judges import Judge
from tamnas.report.claims.verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, Finding
from tamnas.report.study import Dataset
from tamnas.report.tables.table import Column, Table, Value, markdown
from tamnas.report.terms import counted


@dataclass(frozen=True)
class Claim:
    """`text`: the paper's conclusion in our words; `where` it is drawn; `test`: what decides it; `judge` does."""

    key: str
    text: str
    where: str
    test: str
    judge: Judge


CLAIMS: tuple[Claim, ...] = (
    Claim("few-steps", "Fewer attack steps for the supernet suffice", "IV-B1, Tables II, III",
          "Mean robust accuracy of a mode's subnets, trained from scratch, against that of the mode with the most "
          "steps and the same eps and width: Welch's interval of the difference lies above −2 points (holds) or below "
          "(does not hold), for every mode with fewer steps (95% in all, by Bonferroni).", judges.few_steps_suffice),
    Claim("eps-not-steps", "Accuracy under attack depends on eps, hardly on the number of steps", "IV-B1",
          "Per network, its loss from the fewest to the most steps of the grid, minus a tenth of its loss from the "
          "smallest to the largest eps: the 95% t interval of the mean over all tested networks but controls lies "
          "below "
          "0.",
          judges.eps_not_steps),
    Claim("best-eps", "A supernet trained at eps 6/255 gives the best subnets", "IV-B2, Tables IV, V",
          "Accuracy averaged over the radii of the grid, mean over a mode's subnets: Welch's interval of the "
          "difference to every other eps with the same steps and width lies above 0 (95% in all, by Bonferroni).",
          judges.best_eps),
    Claim("size", "Size is not what decides robust accuracy", "IV-C, Table VI",
          "Pearson's r of log parameters and robust accuracy, over subnets trained from scratch, both centred within "
          "their mode: its 95% interval lies within 0.5 of 0 (a quarter of the variance).", judges.size_is_not_it),
    Claim("scratch", "Training from scratch beats fine-tuning", "IV-D, Figure 5",
          "Paired differences of the same architectures on test images: positive mean and p below 0.05 in Wilcoxon's "
          "signed-rank test, for clean and for robust accuracy.", judges.scratch_beats_finetuning),
    Claim("gain", "Most tiny networks gain much from training from scratch", "IV-E1, Figures 6, 7",
          "Share of the smaller half of each mode's retrained subnets that gain at least 5 points of clean and of "
          "robust validation accuracy over the inherited weights (robust only where search and validation attack "
          "alike): its 95% Wilson interval lies above one half.", judges.tiny_networks_gain),
    Claim("hypervolume", "The hypervolume has converged by generation 18", "IV-A2",
          "Searches whose population's hypervolume changes by at most 1% from generation 18 to the last one: more "
          "than half of them.", judges.hypervolume_converged),
    Claim("epoch-40", "Retraining has converged by epoch 40", "IV-A3",
          "Validation accuracy of the last epoch minus that of epoch 40, paired over subnets: the 95% t interval of "
          "its mean lies within 1 point of 0, clean and robust.", judges.training_converged),
    Claim("robust-blocks", "Robust blocks in the first layers, tiny blocks in the last", "IV-E2, Figure 8",
          "Choices of blocks with attention among the subnets that vote for Lego-Net, in the first quarter of the "
          "layers against the last half: Fisher's exact test, p below 0.025 to either side. Subnets of one front "
          "share ancestors, so that the choices are not independent and p is too small.", judges.robust_blocks_first),
    Claim("wide-ratios", "Wide ratios in the first layers, the smallest in the last", "IV-E2, Figure 9",
          "Ratios chosen by the same subnets. Wide first: the first 3 against the last 3 of 16 layers (or the same "
          "share). Smallest last: those between against the last 3; it holds only where no layer before these has a "
          "smaller mean. Both: Mann-Whitney's test, p below 0.025 to either side, with the same caution.",
          judges.wide_ratios_first),
    Claim("lego-subnet", "Lego-Net is smaller, more accurate and more robust than the best searched subnet",
          "IV-E3, Tables VIII, IX",
          "Fewer parameters; and Newcombe's 95% interval of the difference in accuracy on test images lies above 0, "
          "clean and robust. The subnet: the best of the Lego-Net's own mode, else of all modes.",
          judges.lego_beats_searched),
    Claim("lego-resnet18", "Lego-Net beats ResNet-18", "IV-F, Table X", "The same test.", judges.lego_beats_resnet18),
    Claim("lego-hand-made", "Lego-Net beats the tiny hand-made networks", "IV-F, Table X",
          "The same test against every hand-made network of at most 5 million parameters that was run (the paper has "
          "ShuffleNetV2 and MobileNetV3). A network smaller than Lego-Net is not beaten in size.",
          judges.lego_beats_hand_made),
)  # fmt: skip

RULES = (
    f'A claim "{HOLDS}" or "{FAILS}" only where its test decides; "{UNDECIDED}": the data are compatible with both; '
    f'"{NOT_RUN}": this run has no results that could decide. A claim of several parts fails with one of them.',
    "Differences are in percentage points with their 95% interval. Intervals over subnets cover the choice of subnets, "
    "intervals over images that of test images; neither covers the seed.",
)
SMALL_NETWORKS, SMALL_IMAGES = 10, 1000
THE_PAPERS = ("cifar10", "svhn")


def judged(datasets: Sequence[Dataset]) -> list[tuple[Claim, Dataset, Finding]]:
    """Every claim on every dataset."""
    return [(claim, dataset, claim.judge(dataset)) for claim in CLAIMS for dataset in datasets]


def claims_table(datasets: Sequence[Dataset]) -> Table:
    """One line per claim and dataset."""
    columns = [Column("claim", "The paper's conclusion"), Column("where", "Section"), Column("dataset", "Dataset"),
               Column("verdict", "Verdict"), Column("numbers", "Numbers")]  # fmt: skip
    rows = []
    for claim, dataset, finding in judged(datasets):
        warned = [finding.numbers, *(caveats(dataset) if finding.verdict != NOT_RUN else [])]
        rows.append([Value(claim.text), Value(claim.where), Value(dataset.name), Value(finding.verdict),
                     Value("; ".join(warned))])  # fmt: skip
    notes = [f"{claim.text}: {claim.test}" for claim in CLAIMS]
    notes += [f"Robust, {dataset.name}: {dataset.key_attack.text}, on test images where not said otherwise."
              for dataset in datasets]  # fmt: skip
    return Table("claims", "The paper's conclusions, judged by this run", columns, rows, [*RULES, *notes])


def caveats(dataset: Dataset) -> list[str]:
    """What makes any verdict on this dataset weak."""
    source, n = dataset.plan.data.source, dataset.images["test"]
    networks = min((len(row.scratch) for row in dataset.rows), default=0)
    small = [counted(n, "test image")] if n < SMALL_IMAGES else []
    small += [f"{counted(networks, 'retrained subnet')} a mode"] if networks < SMALL_NETWORKS else []
    found = [f"small sample ({', '.join(small)})"] if small else []
    return found + ([f"not the paper's images (source {source})"] if source not in THE_PAPERS else [])


def claims_page(datasets: Sequence[Dataset]) -> str:
    """reports/claims.md."""
    return markdown(claims_table(datasets))
