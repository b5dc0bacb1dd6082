"""From decoded cases to the three splits: drop copies, form groups, honour `max_cases`, split."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from hsl_data.binding import SiteBinding
from hsl_data.duplicates import DecodedCase, crossing_source_splits, drop_copies, find_groups
from hsl_data.errors import ClassMissingError
from hsl_data.report import NotUsedCase, Reason
from hsl_data.split import SPLITS, Counts, Split, proportional_limits, split_groups, take_groups
from hsl_model.protocol.config import TaskConfig


@dataclass(frozen=True)
class Arrangement:
    splits: dict[Split, tuple[DecodedCase, ...]]  # each sorted by name
    groups: dict[int, str]  # by scratch row
    dropped: tuple[NotUsedCase, ...]
    num_near_copies: int
    num_crossing_source: int


def arrange(cases: Sequence[DecodedCase], binding: SiteBinding, task: TaskConfig, sat_digests: Set[str]) -> Arrangement:
    """Groups are formed before anything is dropped: a dropped copy still ties its patients together."""
    keys = find_groups(cases)
    groups = {case.row: key for case, key in zip(cases, keys, strict=True)}
    reasons = drop_copies(cases, sat_digests)
    dropped = [_not_used(case, reasons[i]) for i, case in enumerate(cases) if i in reasons]
    kept = sorted((case for i, case in enumerate(cases) if i not in reasons), key=lambda case: case.sort_key)
    taken = _limited(kept, groups, binding)
    dropped += [_not_used(case, "over_max_cases") for case in kept if groups[case.row] not in taken]
    used = [case for case in kept if groups[case.row] in taken]
    _check_classes(used, task)
    placed = split_groups(class_counts(used, groups), binding.split_seed)
    return Arrangement(
        splits={split: tuple(case for case in used if placed[groups[case.row]] == split) for split in SPLITS},
        groups=groups,
        dropped=tuple(sorted(dropped, key=lambda case: (case.reason, case.name))),
        num_near_copies=_near_copies(used, groups),
        num_crossing_source=crossing_source_splits(cases, keys),
    )


def class_counts(cases: Iterable[DecodedCase], groups: Mapping[int, str]) -> dict[str, Counts]:
    """Images of the negative and the positive class in each group."""
    counts: dict[str, list[int]] = {}
    for case in cases:
        counts.setdefault(groups[case.row], [0, 0])[case.label] += 1
    return {key: (negative, positive) for key, (negative, positive) in counts.items()}


def _limited(cases: Sequence[DecodedCase], groups: Mapping[int, str], binding: SiteBinding) -> set[str]:
    counts = class_counts(cases, groups)
    if binding.max_cases is None:
        return set(counts)
    totals = (sum(n for n, _ in counts.values()), sum(n for _, n in counts.values()))
    return take_groups(counts, proportional_limits(totals, binding.max_cases), binding.split_seed)


def _not_used(case: DecodedCase, reason: Reason) -> NotUsedCase:
    return NotUsedCase(name=case.name, reason=reason)


def _near_copies(cases: Sequence[DecodedCase], groups: Mapping[int, str]) -> int:
    sizes = Counter(groups[case.row] for case in cases)
    return sum(size for key, size in sizes.items() if size > 1 and key.startswith("image:"))


def _check_classes(used: Sequence[DecodedCase], task: TaskConfig) -> None:
    labels = {case.label for case in used}
    for label, name in ((1, task.positive_class), (0, task.negative_class)):
        if label not in labels:
            reason = f"No usable image of class {name!r} is left after copies and unreadable images were set aside."
            raise ClassMissingError(reason=f"{reason} See the truth report's reasons, and add images of that class.")
