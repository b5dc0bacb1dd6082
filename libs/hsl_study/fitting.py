"""A published scenario made to fit another data set: as large as the images allow, its shape kept.

    1  body regions are renamed as the study says; regions that the data set still has not are replaced by any image
    2  all nodes are scaled by one factor, the largest that every class of every domain can supply in every split
    3  no node falls below `LEAST` images of a class that it had, so ratios beyond that end there

Whether groups can be kept whole at that size is known when images are drawn (`partition.py`), which still refuses.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping

from hsl_data.split import SPLITS, Counts, Split, quotas
from hsl_study.scenarios import NodeTable, Scenario, SplitRule, ratio, split_by_class, split_by_node

LEAST = 10  # of either class, so that the smallest node validates on two images, one of either
ROOM_PERCENT = 92  # of a split of a class: the rest is for groups that stay whole
STEPS = 1000
TOLD = 1.25  # times less rare than published; below that it is rounding


def fitted(scenario: Scenario, domains: Mapping[str, Counts], regions: Mapping[str, str]) -> Scenario:
    """`domains`: what the data set has; `regions`: published body region -> domain of the data set.

    Raises `ValueError` where even `LEAST` images of a class are too many.
    """
    renamed = _renamed(scenario, domains, regions)
    sizes = range(1, STEPS + 1)
    fits = bisect_right(sizes, 0, key=lambda step: 0 if _is_supplied(_scaled(renamed, step), domains) else 1)
    if not fits:
        raise ValueError(f"the data set is too small: every node needs {LEAST} images of each of its classes")
    return _scaled(renamed, fits)


def largest_domains(domains: Mapping[str, Counts]) -> dict[str, Counts]:
    """Those that can be a node of feature skew: three times `LEAST` images of either class.

    Raises `ValueError` for fewer than two.
    """
    found = {domain: counts for domain, counts in domains.items() if min(counts) >= 3 * LEAST}
    if len(found) < 2:
        there = ", ".join(f"{name or 'all'} {ratio(counts)}" for name, counts in domains.items())
        raise ValueError(f"it needs two domains with {3 * LEAST} images of either class, and there are {there}")
    return found


def fit_lines(scenario: Scenario) -> Iterator[str]:
    """What fitting did to it, and what it could not keep; nothing for one as published."""
    if not scenario.published:
        return
    held = {node.node_id: node.counts for node in scenario.nodes}
    told = (f"{node} {ratio(before)} to {ratio(held[node])}" for node, before in scenario.published.items())
    yield f"Shrunk to the images there are: {', '.join(told)}."
    shares = {
        (node, label): held[node][label] / before[label]
        for node, before in scenario.published.items()
        for label in (0, 1)
        if before[label]
    }
    common = min(shares.values())
    rarer = [
        f"{('negatives', 'positives')[label]} of {node} {share / common:.1f} times"
        for (node, label), share in shares.items()
        if share > TOLD * common
    ]
    if rarer:
        yield f"A class keeps {LEAST} images, so these are less rare than published: {', '.join(rarer)}."


def _renamed(scenario: Scenario, domains: Mapping[str, Counts], regions: Mapping[str, str]) -> Scenario:
    named = [
        [(regions.get(region, region), counts) for region, counts in node.parts.items()] for node in scenario.nodes
    ]
    if any(region not in domains for parts in named for region, _ in parts):
        named = [[] for _ in scenario.nodes]
    nodes = []
    for node, parts in zip(scenario.nodes, named, strict=True):
        joined: dict[str, Counts] = defaultdict(lambda: (0, 0))
        for region, (negative, positive) in parts:
            joined[region] = (joined[region][0] + negative, joined[region][1] + positive)
        nodes.append(NodeTable(node_id=node.node_id, splits=node.splits, parts=dict(joined)))
    return scenario.model_copy(update={"nodes": tuple(nodes)})


def _scaled(scenario: Scenario, step: int) -> Scenario:
    if step == STEPS:
        return scenario
    rule: SplitRule = split_by_class if scenario.shares_images else split_by_node
    nodes = [_scaled_node(node, step, rule) for node in scenario.nodes]
    published = {node.node_id: node.counts for node in scenario.nodes}
    return scenario.model_copy(update={"nodes": tuple(nodes), "published": published})


def _scaled_node(node: NodeTable, step: int, rule: SplitRule) -> NodeTable:
    wanted = tuple(max(count * step // STEPS, min(count, LEAST)) for count in node.counts)
    if not node.parts:
        return NodeTable(node_id=node.node_id, splits=rule((wanted[0], wanted[1])))
    parts = {domain: [0, 0] for domain in node.parts}
    for label in (0, 1):
        largest = max(node.parts, key=lambda domain: node.parts[domain][label])
        for domain, counts in node.parts.items():
            parts[domain][label] = wanted[label] * counts[label] // max(1, node.counts[label])
        parts[largest][label] += wanted[label] - sum(part[label] for part in parts.values())
    pairs = {domain: (negative, positive) for domain, (negative, positive) in parts.items()}
    return NodeTable(node_id=node.node_id, splits=rule((wanted[0], wanted[1])), parts=pairs)


def _is_supplied(scenario: Scenario, domains: Mapping[str, Counts]) -> bool:
    """Every split of every class of every domain; nodes that share images need as much as the largest of them."""
    demands: dict[tuple[str, int, Split], list[int]] = defaultdict(list)
    for node in scenario.nodes:
        for label in (0, 1):
            for domain, counts in (node.parts or {"": node.counts}).items():
                for split in SPLITS:
                    asked = node.splits[split][label] * counts[label]
                    demands[domain, label, split].append(-(-asked // max(1, node.counts[label])))
    for (domain, label, split), asked_for in demands.items():
        offered = sum(counts[label] for name, counts in domains.items() if domain in ("", name))
        there = quotas(offered)[SPLITS.index(split)] * ROOM_PERCENT // 100
        if (max if scenario.shares_images else sum)(asked_for) > there:
            return False
    return True
