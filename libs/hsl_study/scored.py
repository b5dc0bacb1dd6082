"""The images that all nodes' models of a cell are scored on, and which of them count for which number.

A row is an image as one acquisition stores it, so an image has several rows where sites differ in acquisition; its
group (`Pool.group_numbers`) is the same in all of them. Domains are sets of rows:

    acquisition skew   one for each acquisition, over all test images; a node's own is its acquisition
    else               one for each node, its own test images
    unseen             acquisitions no site has, or the population no node has
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hsl_study.partition import Partition
from hsl_study.pool import Pixels, Pool, Positions

Rows = npt.NDArray[np.bool_]

UNSEEN_POPULATION = "unseen-population"


@dataclass(frozen=True)
class ScoredImages:
    """`case` (R,): positions in the pool. `stored_by`: acquisition -> rows (R,) that it stores; `domains` likewise."""

    case: Positions
    stored_by: Mapping[str, Rows]
    domains: Mapping[str, Rows]
    own_domain: Mapping[str, str]  # of each node
    unseen: tuple[str, ...]

    def own(self, node: str) -> Rows:
        return self.domains[self.own_domain[node]]

    @property
    def is_unseen(self) -> Rows:
        rows = np.zeros(len(self.case), dtype=np.bool_)
        for name in self.unseen:
            rows |= self.domains[name]
        return rows


def scored_images(partition: Partition) -> ScoredImages:
    test = np.array(sorted({at for splits in partition.cases.values() for at in splits["test"]}), dtype=np.int64)
    plan = partition.scenario.acquisitions
    if plan is None:
        case = np.concatenate([test, np.array(partition.unseen, dtype=np.int64)])
        domains = {node: np.isin(case, splits["test"]) for node, splits in partition.cases.items()}
        if partition.unseen:
            domains[UNSEEN_POPULATION] = np.arange(len(case)) >= len(test)
        unseen = (UNSEEN_POPULATION,) if partition.unseen else ()
        return ScoredImages(case, {}, domains, {node: node for node in partition.cases}, unseen)
    names = (*plan.seen, *plan.unseen)
    by = np.repeat(np.arange(len(names)), len(test))
    rows = {name: by == number for number, name in enumerate(names)}
    return ScoredImages(np.tile(test, len(names)), rows, rows, plan.of_site, plan.unseen)


def pixels_of(scored: ScoredImages, partition: Partition, pool: Pool) -> Pixels:
    """(R, C, H, W) uint8."""
    images = pool.images[scored.case]
    plan = partition.scenario.acquisitions
    for name, rows in scored.stored_by.items():
        if plan is not None:
            images[rows] = plan.stored(name, images[rows], pool.names_of(scored.case[rows]))
    return images
