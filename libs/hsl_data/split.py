"""The 60/10/30 split into training, validation and test: stratified by class, whole groups only.

Integer arithmetic throughout, and every draw is a SHA-256 of the split seed and a group's key. So the split depends on
names and the seed alone: not on the order of files, not on the machine, not on a library's random generator.

1. Per class the wanted sizes are 60, 10 and 30 percent with the largest remainder; ties go to validation, then test,
   then training (methods.md 1.2: 735 -> 441/74/220). A class of three or more images wants at least one everywhere.
2. Groups are placed one by one, the largest first (small ones fill the gaps), those of one size in keyed order: among
   the splits that would overshoot least, one is drawn with chances proportional to what it still wants.
3. A split left without a class takes over a group of that class where another split can spare one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

Split = Literal["training", "validation", "test"]
Counts = tuple[int, int]  # images of the negative and of the positive class

SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = (60, 10, 30)
_TIE_ORDER = (1, 2, 0)


def split_groups(groups: Mapping[str, Counts], seed: int) -> dict[str, Split]:
    """A split for each group key. `groups` says how many images of each class a group holds."""
    wanted = [quotas(sum(counts[label] for counts in groups.values())) for label in (0, 1)]
    open_places = [[wanted[label][split] for label in (0, 1)] for split in range(len(SPLITS))]
    placed: dict[str, int] = {}
    for key in placing_order(groups, seed):
        split = _draw(groups[key], open_places, keyed_number(seed, "split", key))
        placed[key] = split
        for label in (0, 1):
            open_places[split][label] -= groups[key][label]
    _fill_empty(placed, groups, seed)
    return {key: SPLITS[split] for key, split in sorted(placed.items())}


def take_groups(groups: Mapping[str, Counts], limits: Counts, seed: int) -> set[str]:
    """A keyed draw of groups that holds at most `limits` images of each class; groups that do not fit are left.

    Groups with images of the rarer class are drawn first: else the common class of mixed groups would shut them out.
    """
    totals = [sum(counts[label] for counts in groups.values()) for label in (0, 1)]
    rarer = totals.index(min(totals))
    taken: set[str] = set()
    room = list(limits)
    for key in sorted(groups, key=lambda key: (groups[key][rarer] == 0, keyed_number(seed, "take", key))):
        if all(groups[key][label] <= room[label] for label in (0, 1)):
            taken.add(key)
            room = [room[label] - groups[key][label] for label in (0, 1)]
    return taken


def proportional_limits(totals: Counts, max_cases: int) -> Counts:
    """At most `max_cases` in the classes' proportion (largest remainder), at least one of each class that occurs."""
    total = sum(totals)
    if total <= max_cases:
        return totals
    positive = (2 * totals[1] * max_cases + total) // (2 * total)
    positive = min(max(positive, int(totals[1] > 0)), max_cases - int(totals[0] > 0))
    return max_cases - positive, positive


def quotas(count: int) -> tuple[int, ...]:
    """Sizes of the splits for `count` images of one class."""
    sizes = [count * share // 100 for share in SHARES]
    by_remainder = sorted(range(3), key=lambda split: (-(count * SHARES[split] % 100), _TIE_ORDER.index(split)))
    for split in by_remainder[: count - sum(sizes)]:
        sizes[split] += 1
    for split in range(3):
        if count >= 3 and sizes[split] == 0:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[split] = 1
    return tuple(sizes)


def placing_order(groups: Mapping[str, Counts], seed: int) -> list[str]:
    return sorted(groups, key=lambda key: (-sum(groups[key]), keyed_number(seed, "order", key)))


def keyed_number(seed: int, purpose: str, key: str) -> int:
    """256 random bits that belong to (seed, purpose, key) alone."""
    text = f"{seed}\0{purpose}\0{key}".encode()
    return int.from_bytes(hashlib.sha256(text).digest(), "big")


def _draw(counts: Counts, open_places: Sequence[Sequence[int]], number: int) -> int:
    overshoot = [sum(max(0, counts[label] - max(0, places[label])) for label in (0, 1)) for places in open_places]
    fitting = [split for split, over in enumerate(overshoot) if over == min(overshoot)]
    chances = [max(1, sum(max(0, open_places[split][label]) for label in (0, 1) if counts[label])) for split in fitting]
    number %= sum(chances)
    for split, chance in zip(fitting, chances, strict=True):
        if number < chance:
            return split
        number -= chance
    raise AssertionError("a number below the sum of the chances falls into one of them")


def _fill_empty(placed: dict[str, int], groups: Mapping[str, Counts], seed: int) -> None:
    """Step 3. Moves the smallest group that can be spared; each move fills a gap and makes none, so this ends."""
    order = list(reversed(placing_order(groups, seed)))
    for label in (1, 0):
        for split in range(3):
            holders = _holders(placed, groups, label)
            if holders[split] > 0 or sum(holders) < 3:
                continue
            spare = (key for key in order if groups[key][label] and _can_leave(key, placed, groups))
            key = next(spare, None)
            if key is not None:
                placed[key] = split


def _can_leave(key: str, placed: Mapping[str, int], groups: Mapping[str, Counts]) -> bool:
    """Whether the group's split keeps another group of every class that this group holds."""
    return all(groups[key][label] == 0 or _holders(placed, groups, label)[placed[key]] > 1 for label in (0, 1))


def _holders(placed: Mapping[str, int], groups: Mapping[str, Counts], label: int) -> list[int]:
    """How many groups with images of `label` each split holds."""
    return [sum(1 for key, at in placed.items() if at == split and groups[key][label]) for split in range(3)]
