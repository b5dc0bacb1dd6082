"""A scenario's table filled with a data set's images: who holds which, in which split.

    patient (default)  groups (patients, else look-alikes) are split 60/10/30 over the whole data set first, domain by
                       domain; nodes then draw images from the splits, so that a group lies in one split over all nodes
    paper              by image, as published: a node draws its images, then splits them. Exact, and leaky wherever a
                       patient has several images, which is why it is not the default
    shared images      (label skew) the data set is split first in both modes; nodes draw independently of each other
    official parts     nodes draw from the publisher's training part, by groups, and are scored on another part

Every draw is keyed by (seed, purpose, name of the image), so neither the order of files nor other nodes change it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from hsl_data.split import SPLITS, Counts, Split, keyed_number, split_groups, take_groups
from hsl_model.protocol.errors import HslError
from hsl_study.fitting import fit_lines
from hsl_study.held_out import OfficialPart, official_parts, unseen_groups
from hsl_study.scenarios import NodeTable, Scenario, SplitCounts, ratio

Mode = Literal["patient", "paper"]
TOLERANCE_PERCENT = 2  # of a class of a node: how far `patient` may stay below its table, since groups stay whole
LABELS = (0, 1)


class ScenarioInfeasibleError(HslError):
    code = "scenario_infeasible"
    http_status = 422
    title = "The data set cannot supply this scenario"
    template = "{scenario} ({mode} mode) cannot be built: {shortage}. Use a smaller or scaled scenario, or more images."


class LeakError(HslError):
    code = "partition_leaks"
    http_status = 500
    title = "An image or a patient lies in two splits"
    template = "{what} lies in {first} and in {second}: no result of this partition could be believed."


@dataclass(frozen=True)
class PoolCase:
    """One usable image. `group`: what may not be parted; `pixel_digest`: what may not occur twice; `part`: official."""

    name: str
    label: int
    domain: str
    group: str
    pixel_digest: str
    part: str | None = None


@dataclass(frozen=True)
class Partition:
    """Positions in the pool by node and split, and the table that was asked for. Nodes scored on an official part all
    have it as their test. `unseen`: the population no node has; `num_torn`: left out, since a group lay in two parts.
    """

    scenario: Scenario
    mode: Mode
    cases: dict[str, dict[Split, tuple[int, ...]]]
    built: dict[str, SplitCounts]
    unseen: tuple[int, ...] = ()
    num_torn: int = 0

    def lines(self) -> list[str]:
        """Built against asked, as `negative:positive` of each split."""
        lines = [f"{self.scenario.name}, {self.mode} mode: images built (asked), negative:positive"]
        for node in self.scenario.nodes:
            cells = [
                f"{split} {ratio(self.built[node.node_id][split])} ({ratio(node.splits[split])})" for split in SPLITS
            ]
            lines.append(f"{node.node_id:20} {'  '.join(cells)}")
        lines += fit_lines(self.scenario)
        if self.scenario.inferred:
            lines.append("The composition is inferred from published sizes, not stated by the paper.")
        if self.scenario.shares_images:
            lines.append("Nodes may hold the same image, always within one split.")
        if self.scenario.scored is not None:
            tested = len(next(iter(self.cases.values()))["test"])
            lines.append(
                f"Every node is scored on the official {self.scenario.scored} part, {tested} images. {self.num_torn} "
                "images are left out, because a copy or look-alike lies in another part."
            )
        if self.scenario.acquisitions is not None:
            lines += self.scenario.acquisitions.lines()
        if self.scenario.unseen is not None:
            lines.append(f"Scored besides: {len(self.unseen)} images of a population that no node has.")
        return lines


def build_partition(scenario: Scenario, pool: Sequence[PoolCase], mode: Mode, seed: int) -> Partition:
    """Raises `ScenarioInfeasibleError` with the numbers, `LeakError` if the result were not sound."""
    try:
        drawing = _Drawing(scenario, pool, mode, seed)
    except ValueError as error:
        raise ScenarioInfeasibleError(scenario=scenario.name, mode=mode, shortage=str(error)) from error
    draw = drawing.then_split if by_image(scenario, mode) else drawing.from_splits
    cases = {node.node_id: draw(node) for node in scenario.nodes}
    built = {node_id: _table(pool, splits) for node_id, splits in cases.items()}
    _check_built(scenario, mode, built)
    if scenario.scored is not None:
        cases = {node_id: {**splits, "test": drawing.scored} for node_id, splits in cases.items()}
    apart: dict[str, dict[Split, tuple[int, ...]]] = {"unseen": {"test": drawing.unseen}}
    check_no_leak(pool, cases | apart, check_groups=mode == "patient" or scenario.scored is not None)
    return Partition(scenario, mode, cases, built, drawing.unseen, drawing.num_torn)


def offered_cases(pool: Sequence[PoolCase], scored: OfficialPart | None) -> list[PoolCase]:
    """What nodes may train and validate on. Raises `ValueError` where the data set has no such official part."""
    if scored is None:
        return list(pool)
    return [pool[at] for at, part in _official(pool, scored)[0].items() if part == "training"]


def check_no_leak(
    pool: Sequence[PoolCase], cases: dict[str, dict[Split, tuple[int, ...]]], *, check_groups: bool
) -> None:
    """On pixels and, in `patient` mode, on groups; over all nodes together."""
    held: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for splits in cases.values():
        for split, positions in splits.items():
            held[split] |= {f"image {pool[at].pixel_digest}" for at in positions}
            if check_groups:
                held[split] |= {f"group {pool[at].group}" for at in positions}
    for first, second in combinations(SPLITS, 2):
        if common := held[first] & held[second]:
            raise LeakError(what=min(common), first=first, second=second)


def by_image(scenario: Scenario, mode: Mode) -> bool:
    """Nodes draw first and split afterwards, each its own images."""
    return mode == "paper" and not scenario.shares_images and scenario.scored is None


def _official(pool: Sequence[PoolCase], scored: OfficialPart) -> tuple[dict[int, Split], int]:
    return official_parts([case.part for case in pool], [case.group for case in pool], scored)


class _Drawing:
    def __init__(self, scenario: Scenario, pool: Sequence[PoolCase], mode: Mode, seed: int) -> None:
        self._scenario, self._pool, self._mode, self._seed = scenario, pool, mode, seed
        domains = {domain for node in scenario.nodes for domain in _parts(node)}
        self.scored: tuple[int, ...] = ()
        self.num_torn = 0
        self.unseen = self._hold_out()
        kept = set(range(len(pool))) - set(self.unseen)
        if scenario.scored is not None:
            official, self.num_torn = _official(pool, scenario.scored)
            self.scored = tuple(at for at, part in official.items() if part == scenario.scored)
            kept &= {at for at, part in official.items() if part == "training"}
        self._offered = [at for at in sorted(kept) if domains & {"", pool[at].domain}]
        self._free = set(self._offered)  # images no node holds yet
        if by_image(scenario, mode):
            self._split_of: dict[int, Split] = {}
        else:
            self._split_of = self._split_pool() if scenario.scored is None else self._split_training_part()

    def _hold_out(self) -> tuple[int, ...]:
        """The unseen population, and with it every other image of its groups."""
        if self._scenario.unseen is None:
            return ()
        keys = {at: case.group for at, case in enumerate(self._pool)}
        homes = _homes(dict(enumerate(self._pool)), keys)
        taken = unseen_groups(self._scenario.unseen, self._group_counts(keys), homes)
        return tuple(at for at, key in keys.items() if key in taken)

    def _split_training_part(self) -> dict[int, Split]:
        """Groups for the nodes' validation first, as many as they ask for; the rest of the training part trains."""
        keys = {at: self._pool[at].group for at in self._offered}
        homes = _homes({at: self._pool[at] for at in self._offered}, keys)
        counts = self._group_counts(keys)
        chosen: set[str] = set()
        wanted: dict[str, list[int]] = {}
        for node, label in product(self._scenario.nodes, LABELS):
            for domain, splits in _split_parts(node, label).items():
                wanted.setdefault(domain, [0, 0])[label] += splits["validation"]
        for domain, (negative, positive) in wanted.items():
            there = {key: found for key, found in counts.items() if domain in ("", homes[key]) and key not in chosen}
            chosen |= take_groups(there, (negative, positive), self._seed)
        return {at: "validation" if key in chosen else "training" for at, key in keys.items()}

    def _group_counts(self, keys: Mapping[int, str]) -> dict[str, Counts]:
        counts: dict[str, list[int]] = {}
        for at, key in keys.items():
            counts.setdefault(key, [0, 0])[self._pool[at].label] += 1
        return {key: (negative, positive) for key, (negative, positive) in counts.items()}

    def _split_pool(self) -> dict[int, Split]:
        """The split of each image, when the data set is split before nodes draw."""
        cases = {at: self._pool[at] for at in self._offered}
        keys = {at: case.name if self._mode == "paper" else case.group for at, case in cases.items()}
        homes = _homes(cases, keys)
        counts = self._group_counts(keys)
        placed: dict[str, Split] = {}
        for home in sorted(set(homes.values())):
            placed |= split_groups({key: found for key, found in counts.items() if homes[key] == home}, self._seed)
        return {at: placed[key] for at, key in keys.items()}

    def then_split(self, node: NodeTable) -> dict[Split, tuple[int, ...]]:
        """Draw the node's images, then cut them into its splits."""
        splits: dict[Split, list[int]] = {split: [] for split in SPLITS}
        for label in LABELS:
            drawn = [
                at
                for domain, counts in _parts(node).items()
                for at in self._draw(self._candidates(domain, label), counts[label], node, "node")
            ]
            wanted = sum(node.splits[split][label] for split in SPLITS)
            if len(drawn) < wanted:
                raise self._short(node, label, wanted, len(drawn))
            drawn.sort(key=lambda at: keyed_number(self._seed, "cut", self._pool[at].name))
            for split in SPLITS:
                count = node.splits[split][label]
                splits[split] += drawn[:count]
                drawn = drawn[count:]
        return {split: tuple(sorted(found)) for split, found in splits.items()}

    def from_splits(self, node: NodeTable) -> dict[Split, tuple[int, ...]]:
        """Draw each split of the node from the same split of the data set."""
        splits: dict[Split, tuple[int, ...]] = {}
        shares = {label: _split_parts(node, label) for label in LABELS}
        for split in SPLITS:
            found: list[int] = []
            for label in LABELS:
                for domain, wanted in shares[label].items():
                    there = [at for at in self._candidates(domain, label) if self._split_of[at] == split]
                    found += self._draw(there, wanted[split], node, split)
            splits[split] = tuple(sorted(found))
        return splits

    def _candidates(self, domain: str, label: int) -> list[int]:
        offered = self._offered if self._scenario.shares_images else sorted(self._free)
        return [at for at in offered if self._pool[at].label == label and domain in ("", self._pool[at].domain)]

    def _draw(self, candidates: Sequence[int], count: int, node: NodeTable, purpose: str) -> list[int]:
        name = node.node_id if self._scenario.shares_images else ""
        drawn = sorted(
            candidates, key=lambda at: keyed_number(self._seed, f"draw {purpose} {name}", self._pool[at].name)
        )[:count]
        self._free.difference_update(drawn)
        return drawn

    def _short(self, node: NodeTable, label: int, wanted: int, found: int) -> ScenarioInfeasibleError:
        kind = ("negative", "positive")[label]
        shortage = f"{node.node_id} needs {wanted} {kind} images and {found} are left"
        return ScenarioInfeasibleError(scenario=self._scenario.name, mode=self._mode, shortage=shortage)


def _homes(cases: Mapping[int, PoolCase], keys: Mapping[int, str]) -> dict[str, str]:
    """The domain that most images of a group have (the first of equals): where the group counts when it is split."""
    held: dict[str, Counter[str]] = {}
    for at, case in cases.items():
        held.setdefault(keys[at], Counter())[case.domain] += 1
    return {key: min(counts, key=lambda domain: (-counts[domain], domain)) for key, counts in held.items()}


def _parts(node: NodeTable) -> dict[str, Counts]:
    return node.parts or {"": node.counts}  # "": any domain


def _split_parts(node: NodeTable, label: int) -> dict[str, dict[Split, int]]:
    """How many images of a class each split takes from each domain, in proportion; the last domain takes the rest."""
    parts = {domain: counts[label] for domain, counts in _parts(node).items()}
    total = sum(parts.values())
    left = {split: node.splits[split][label] for split in SPLITS}
    shares: dict[str, dict[Split, int]] = {}
    for number, (domain, count) in enumerate(parts.items(), 1):
        if number == len(parts):
            shares[domain] = dict(left)
            break
        shares[domain] = {split: node.splits[split][label] * count // max(1, total) for split in SPLITS}
        left = {split: left[split] - shares[domain][split] for split in SPLITS}
    return shares


def _table(pool: Sequence[PoolCase], splits: dict[Split, tuple[int, ...]]) -> SplitCounts:
    found: SplitCounts = {}
    for split in SPLITS:
        labels = Counter(pool[at].label for at in splits[split])
        found[split] = (labels[0], labels[1])
    return found


def _check_built(scenario: Scenario, mode: Mode, built: dict[str, SplitCounts]) -> None:
    for node in scenario.nodes:
        for label in LABELS:
            table = built[node.node_id]
            missing = {split: node.splits[split][label] - table[split][label] for split in SPLITS}
            allowed = node.counts[label] * TOLERANCE_PERCENT // 100
            empty = [split for split in SPLITS if node.splits[split][label] and not table[split][label]]
            if sum(missing.values()) > allowed or empty:
                cells = ", ".join(
                    f"{table[split][label]} of {node.splits[split][label]} in {split}" for split in SPLITS
                )
                shortage = f"{node.node_id} would get, of class {label}, {cells}"
                raise ScenarioInfeasibleError(scenario=scenario.name, mode=mode, shortage=shortage)
