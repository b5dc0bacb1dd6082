"""The paper's scenarios as tables of counts: what each node is to hold. No images here (`partition.py` draws them).

    feature skew    one domain a node, everything else equal                                 (methods.md 1.2)
    label skew      two nodes of equal size, one balanced, one 2:1 to 100:1; they may share images (1.3)
    quantity skew   two balanced nodes of unequal size, 1 to 80 times                        (1.4)
    combined        a screening centre, a specialised hospital, two clinics, a rare-disease region (1.5, inferred)
    real world      five hospitals with the published sizes and label ratios                 (1.7)
    acquisition     sites equal but for the machine that stored their images (`acquisition.py`); not of the paper

Splits are integer arithmetic. By class: 60/10/30 with the largest remainder (`hsl_data.split.quotas`). By node:
floor(0.3 n) test, floor(0.1 n) validation, the rest training, each shared out between the classes in their proportion.
The first reproduces the published sizes of 1.2 and 1.3, the second those of 1.4, 1.5 and 1.7.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from hsl_data.split import SPLITS, Counts, Split, quotas
from hsl_model.protocol.config import Message, NodeId
from hsl_study.acquisition import AcquisitionPlan
from hsl_study.held_out import OfficialPart, UnseenPopulation, training_and_validation

MURA_COUNTS: Mapping[str, Counts] = {  # normal, abnormal, as the paper uses them (methods.md 1.1)
    "XR_FINGER": (3256, 2197),
    "XR_HAND": (4211, 1661),
    "XR_ELBOW": (3098, 2223),
    "XR_FOREARM": (1304, 806),
    "XR_HUMERUS": (814, 735),
    "XR_SHOULDER": (4394, 4340),
    "XR_WRIST": (5917, 4211),
}
LABEL_RATIOS = (2, 4, 6, 8, 10, 20, 40, 60, 80, 100)
QUANTITY_RATIOS = (1, 2, 4, 6, 8, 10, 20, 40, 60, 80)
LABEL_SKEW_SIZE = 3970  # both nodes, every gradient
QUANTITY_SKEW_SIZE = 8678  # both nodes together, every gradient
HOSPITALS: Mapping[str, Counts] = {  # benign, malignant
    "sysu01": (3987, 7584),
    "sysu06": (1066, 650),
    "sysucc": (3791, 2687),
    "gxfy": (910, 825),
    "fsss": (243, 179),
}
SplitCounts = dict[Split, Counts]


def ratio(counts: Counts) -> str:
    """ "600:8": negative to positive."""
    return f"{counts[0]}:{counts[1]}"


class NodeTable(Message):
    """What one node is to hold: images of the negative and of the positive class in each split.

    `parts`: how many images of each class come from which domain; empty: from anywhere.
    """

    node_id: NodeId
    splits: SplitCounts
    parts: dict[str, Counts] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.parts and _sum(self.parts.values()) != self.counts:
            raise ValueError(f"{self.node_id}: the domains give {_sum(self.parts.values())}, the splits {self.counts}")
        return self

    @property
    def counts(self) -> Counts:
        return _sum(self.splits.values())


class Scenario(Message):
    """`shares_images`: nodes may hold the same image, within one split; else every image lies at one node.

    `scored`: the official part that tests all nodes; their own tables then ask for no test images.
    """

    name: str
    nodes: tuple[NodeTable, ...] = Field(min_length=1)
    shares_images: bool = False
    inferred: bool = Field(default=False, description="not stated by the paper; reports say so")
    acquisitions: AcquisitionPlan | None = None
    scored: OfficialPart | None = None
    unseen: UnseenPopulation | None = None
    published: dict[NodeId, Counts] = Field(
        default_factory=dict, description="what its nodes held before it was fitted to a data set; empty: not fitted"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        nodes = {node.node_id for node in self.nodes}
        if self.acquisitions is not None and set(self.acquisitions.of_site) != nodes:
            named = ", ".join(sorted(self.acquisitions.of_site))
            raise ValueError(f"acquisitions are given for {named}; the nodes are {', '.join(sorted(nodes))}")
        if self.unseen is not None and (self.scored is not None or self.acquisitions is not None):
            raise ValueError("an unseen population belongs to scenarios without official parts and acquisitions")
        if self.scored is not None and any(sum(node.splits["test"]) for node in self.nodes):
            raise ValueError("nodes scored on an official part have no test images of their own")
        return self


SplitRule = Callable[[Counts], SplitCounts]


def split_by_class(counts: Counts) -> SplitCounts:
    negative, positive = (quotas(count) for count in counts)
    return {split: (negative[index], positive[index]) for index, split in enumerate(SPLITS)}


def split_by_node(counts: Counts) -> SplitCounts:
    """A class of three or more images has at least one in every split that has room for both classes."""
    total = sum(counts)
    test, validation = _shared_out(3 * total // 10, counts), _shared_out(total // 10, counts)
    training = (counts[0] - test[0] - validation[0], counts[1] - test[1] - validation[1])
    return {"training": training, "validation": validation, "test": test}


def feature_skew(domains: Mapping[str, Counts], size_per_class: int | None = None) -> Scenario:
    """One node a domain. Each holds as many images of either class as the poorest domain has of its rarer one."""
    size = size_per_class or min(min(counts) for counts in domains.values())
    nodes = [_node(domain, {domain: (size, size)}, split_by_class) for domain in sorted(domains)]
    return Scenario(name="feature-skew", nodes=tuple(nodes))


def label_skew(ratio: int, domain: str | None = None, size: int = LABEL_SKEW_SIZE) -> Scenario:
    """Node 1 has 1:1, node 2 `ratio`:1 (normal to abnormal). Infeasible with disjoint nodes, so they share images."""
    positive = (2 * size + ratio + 1) // (2 * (ratio + 1))
    skewed, balanced = (size - positive, positive), (size - size // 2, size // 2)
    nodes = (_of("node-1", domain, balanced, split_by_class), _of("node-2", domain, skewed, split_by_class))
    return Scenario(name=f"label-skew-{ratio}", nodes=nodes, shares_images=True)


def quantity_skew(ratio: int, domain: str | None = None, size: int = QUANTITY_SKEW_SIZE) -> Scenario:
    """Both nodes 1:1; node 2 is `ratio` times as large as node 1. `size`: both together."""
    small = (2 * size + ratio + 1) // (2 * (ratio + 1))
    halves = [(count - count // 2, count // 2) for count in (small, size - small)]
    nodes = tuple(_of(f"node-{index}", domain, counts, split_by_node) for index, counts in enumerate(halves, 1))
    return Scenario(name=f"quantity-skew-{ratio}", nodes=nodes)


def combined(domains: Mapping[str, Counts] = MURA_COUNTS) -> Scenario:
    """Five nodes as inferred from the published test sizes: 938, 665, 60, 60, 4279 (methods.md 1.5).

    The rare-disease region is made of what the others leave: prevalence just below 1 in 2000.
    """
    elbow, finger, humerus = domains["XR_ELBOW"], domains["XR_FINGER"], domains["XR_HUMERUS"]
    few_positive, few_negative = (2 * elbow[0] + 100) // 200, (2 * finger[1] + 100) // 200
    rare = {
        "XR_WRIST": (domains["XR_WRIST"][0], 7),
        "XR_SHOULDER": (domains["XR_SHOULDER"][0], 0),
        "XR_FINGER": (finger[0] - few_negative, 0),
        "XR_HUMERUS": (humerus[0] - 100, 0),
    }
    nodes = (
        _node("screening-centre", {"XR_ELBOW": (elbow[0], few_positive)}, split_by_node),
        _node("specialised-hospital", {"XR_FINGER": (few_negative, finger[1])}, split_by_node),
        _node("clinic-1", {"XR_HUMERUS": (100, 100)}, split_by_node),
        _node("clinic-2", {"XR_FOREARM": (100, 100)}, split_by_node),
        _node("rare-region", rare, split_by_node),
    )
    return Scenario(name="combined", nodes=nodes, inferred=True)


def real_world(num_images: int | None = None) -> Scenario:
    """Five hospitals; `num_images` scales them down in proportion, each class of each hospital rounded to nearest."""
    total = sum(sum(counts) for counts in HOSPITALS.values())
    wanted = num_images or total
    if not 0 < wanted <= total:
        raise ValueError(f"num_images must lie between 1 and {total}, the published sizes; it is {wanted}")
    scaled = {name: _scaled(counts, wanted, total) for name, counts in HOSPITALS.items()}
    return Scenario(
        name="real-world", nodes=tuple(_of(name, None, counts, split_by_node) for name, counts in scaled.items())
    )


def acquisition_skew(sites: Sequence[str], size_per_class: int) -> Scenario:
    """Sites of equal size, half of it positive: only their acquisitions will tell them apart."""
    counts = (size_per_class, size_per_class)
    return Scenario(name="acquisition-skew", nodes=tuple(_of(site, None, counts, split_by_class) for site in sites))


def given(nodes: Mapping[str, Counts]) -> Scenario:
    """Counts of one's own: node -> images of the negative and of the positive class, over all splits."""
    return Scenario(name="given", nodes=tuple(_of(name, None, counts, split_by_node) for name, counts in nodes.items()))


def given_by_domain(nodes: Mapping[str, Mapping[str, Counts]]) -> Scenario:
    """The same from chosen domains: node -> domain -> images of the negative and of the positive class."""
    return Scenario(name="given", nodes=tuple(_node(name, parts, split_by_node) for name, parts in nodes.items()))


def scored_on(scenario: Scenario, part: OfficialPart) -> Scenario:
    """For an official part: all that a node holds is for training, a sixth as many images more for its validation."""
    nodes = []
    for node in scenario.nodes:
        tables = {domain: training_and_validation(counts) for domain, counts in node.parts.items()}
        splits = [*tables.values()] or [training_and_validation(node.counts)]
        whole = {split: _sum(table[split] for table in splits) for split in SPLITS}
        parts = {domain: _sum(table.values()) for domain, table in tables.items()}
        nodes.append(NodeTable(node_id=node.node_id, splits=whole, parts=parts))
    return scenario.model_copy(update={"nodes": tuple(nodes), "scored": part})


def scaled(scenario: Scenario, numerator: int, denominator: int, rule: SplitRule = split_by_node) -> Scenario:
    """The same scenario with `numerator / denominator` of its images; no class that a node has vanishes."""
    nodes = []
    for node in scenario.nodes:
        parts = {domain: _scaled(counts, numerator, denominator) for domain, counts in node.parts.items()}
        whole = _sum(parts.values()) if parts else _scaled(node.counts, numerator, denominator)
        nodes.append(NodeTable(node_id=node.node_id, splits=rule(whole), parts=parts))
    name = f"{scenario.name}-{numerator}-of-{denominator}"
    return scenario.model_copy(update={"name": name, "nodes": tuple(nodes)})


def _of(node_id: str, domain: str | None, counts: Counts, rule: SplitRule) -> NodeTable:
    return NodeTable(node_id=node_id, splits=rule(counts), parts={} if domain is None else {domain: counts})


def _node(name: str, parts: Mapping[str, Counts], rule: SplitRule) -> NodeTable:
    node_id = name.lower().replace("_", "-")
    return NodeTable(node_id=node_id, splits=rule(_sum(parts.values())), parts=dict(parts))


def _shared_out(size: int, counts: Counts) -> Counts:
    """`size` images in the classes' proportion, the positive ones rounded to nearest."""
    total = max(1, sum(counts))
    least, most = int(counts[1] >= 3), size - int(counts[0] >= 3)
    positive = max(0, min(max((2 * size * counts[1] + total) // (2 * total), least), most))
    return size - positive, positive


def _scaled(counts: Counts, numerator: int, denominator: int) -> Counts:
    negative, positive = (
        max((2 * count * numerator + denominator) // (2 * denominator), int(count > 0)) for count in counts
    )
    return negative, positive


def _sum(counts: Iterable[Counts]) -> Counts:
    pairs = list(counts)
    return sum(negative for negative, _ in pairs), sum(positive for _, positive in pairs)
