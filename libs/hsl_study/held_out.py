"""What no node trains on although the data set has it: the publisher's own parts, and an unseen population.

Official parts: training images and each node's validation images come from the publisher's training part, and every
node is scored on the whole of its validation or its test part. A group (copies, look-alikes, one patient) that lies in
several parts stays in the last of them only; its other images are left out and counted.

An unseen population is drawn before the nodes draw, and whole groups leave with it (as PTC, methods.md 1.7).
"""

from collections.abc import Mapping, Sequence, Set
from typing import Literal, Self

from pydantic import Field, model_validator

from hsl_data.split import SPLITS, Counts, Split, take_groups
from hsl_model.protocol.config import Message

OfficialPart = Literal["validation", "test"]

_SPELLINGS: Mapping[str, Split] = {  # of `source_split`: MedMNIST and packaged archives number them
    "0": "training", "train": "training", "training": "training",
    "1": "validation", "val": "validation", "valid": "validation", "validation": "validation",
    "2": "test", "test": "test",
}  # fmt: skip


class UnseenPopulation(Message):
    """`counts` images of the negative and positive class, of `domain` or from anywhere; without counts all of it."""

    domain: str | None = None
    counts: Counts | None = Field(default=None, description="negative, positive")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.domain is None and self.counts is None:
            raise ValueError("an unseen population needs counts, a domain, or both")
        return self


def official_parts(
    parts: Sequence[str | None], groups: Sequence[str], scored: OfficialPart
) -> tuple[dict[int, Split], int]:
    """The part of each image by position, as its source tells it; without images of groups that a later part holds.
    The second: how many these are.

    Raises `ValueError` where the source names no training part or no part `scored`.
    """
    found = [_SPELLINGS.get((part or "").lower()) for part in parts]
    if missing := {"training", scored} - set(found):
        raise ValueError(f"the data set has no official part for {', '.join(sorted(missing))}")
    placed = {at: part for at, part in enumerate(found) if part is not None}
    last: dict[str, int] = {}
    for at, part in placed.items():
        last[groups[at]] = max(last.get(groups[at], 0), SPLITS.index(part))
    kept = {at: part for at, part in placed.items() if SPLITS.index(part) == last[groups[at]]}
    return kept, len(placed) - len(kept)


def training_and_validation(counts: Counts) -> dict[Split, Counts]:
    """For nodes scored on an official part: `counts` train, a sixth as many (60 to 10, to nearest) validate."""
    negative, positive = (max((2 * count + 6) // 12, int(count > 0)) for count in counts)
    return {"training": counts, "validation": (negative, positive), "test": (0, 0)}


def unseen_groups(wanted: UnseenPopulation, groups: Mapping[str, Counts], homes: Mapping[str, str]) -> Set[str]:
    """Whole groups, the same for every seed of a study. `homes`: the domain of each group.

    Raises `ValueError` where there are too few images.
    """
    offered = {key: counts for key, counts in groups.items() if wanted.domain in (None, homes[key])}
    if wanted.counts is None:
        taken = set(offered)
        limits: Counts = (1, 1)
    else:
        limits = wanted.counts
        taken = take_groups(offered, limits, seed=0)
    held = [sum(offered[key][label] for key in taken) for label in (0, 1)]
    if any(100 * has < 98 * limit for has, limit in zip(held, limits, strict=True)):
        where = "the data set" if wanted.domain is None else f"domain {wanted.domain}"
        asked, has = ":".join(map(str, limits)), ":".join(map(str, held))
        raise ValueError(f"the unseen population needs {asked} images and {where} gives {has}")
    return taken
