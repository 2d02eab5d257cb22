"""All tables of the reports, in reading order."""

from collections.abc import Sequence

from tamnas.report.study import Dataset
from tamnas.report.tables.attacks import attack_checks_table, ensembles_table
from tamnas.report.tables.controls import controls_table
from tamnas.report.tables.networks import benchmark_table, grid_table, lego_table, subnets_table
from tamnas.report.tables.published import paper_tables
from tamnas.report.tables.ranking import ranking_table
from tamnas.report.tables.search import layers_table, search_table
from tamnas.report.tables.space import blocks_table, geometry_table
from tamnas.report.tables.table import Table

OF_DATASET = (
    grid_table,
    lego_table,
    benchmark_table,
    subnets_table,
    search_table,
    ranking_table,
    layers_table,
    controls_table,
    attack_checks_table,
    ensembles_table,
)


def all_tables(datasets: Sequence[Dataset]) -> list[Table]:
    """Those of each dataset, of the search space, and the paper's own."""
    tables = [make(dataset) for dataset in datasets for make in OF_DATASET]
    space = [geometry_table(datasets), blocks_table(datasets)]
    return [*(table for table in tables if table.rows), *space, *paper_tables(datasets)]
