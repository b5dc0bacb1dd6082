"""Is there room for the rounds ahead?

Held at once while K rounds are not released: in each of them an update per member and the fused model; besides, the
snapshot of the round under way (weights, two moments, the best epoch) and the best model so far.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hsl_model.durable import RESERVE_BYTES
from node_agent.check.finding import Concern, Finding, Outcome, Part

SNAPSHOT_MODELS = 4
KEPT_MODELS = 1
LEAST_BYTES = 2 * RESERVE_BYTES  # without this, not even the check's own files have room


@dataclass(frozen=True)
class Rounds:
    """How many rounds of how many members, and how large a model is."""

    num_rounds: int
    num_members: int
    model_bytes: int

    @property
    def num_bytes(self) -> int:
        models = self.num_rounds * (self.num_members + 1) + SNAPSHOT_MODELS + KEPT_MODELS
        return models * self.model_bytes + RESERVE_BYTES


def check_disk(folder: Path, rounds: Rounds) -> Finding:
    """`folder` need not exist yet."""
    free = shutil.disk_usage(there_of(folder)).free
    needed = rounds.num_bytes
    what = f"{rounds.num_rounds} rounds of {rounds.num_members} members need {_size(needed)}"
    measured = {"free_bytes": float(free), "needed_bytes": float(needed)}
    if free >= needed:
        sentence, outcome = f"{_size(free)} free where the agent's folder lies; {what}.", Outcome.OK
    else:
        cause = "The disk is full" if free < LEAST_BYTES else "The disk has too little room"
        sentence = (
            f"{cause}: {_size(free)} free where the agent's folder lies, and {what}. "
            f"Free {_size(needed - free)}, or use another disk. The images' cache comes on top."
        )
        outcome = Outcome.FAILED
    return Finding(part=Part.HERE, concern=Concern.DISK, outcome=outcome, sentence=sentence, measured=measured)


def there_of(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: where it will lie."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 10**9 else f"{num_bytes / 1e6:.0f} MB"
