"""What goes wrong in a seed: each kind has a rate of its own and a random stream of its own.

A kind that is switched off leaves the draws of all others as they were, so a failing seed can be tried without it
(`shrink.py`).
"""

import random
from collections import Counter
from dataclasses import dataclass, field

KINDS = {
    # between a site and the coordinator
    "request lost": 0.15,
    "reply lost": 0.15,
    "request twice": 0.15,
    "request late": 0.06,
    "line down": 0.006,
    # processes
    "agent crash": 0.010,
    "coordinator crash": 0.03,
    "child died": 0.08,
    # the hub
    "hub down": 0.003,
    "transfer cut": 0.12,
    "transfer refused": 0.08,
    "answer of the hub lost": 0.08,
    "bytes wrong on the way": 0.05,
    "file truncated": 0.05,
    "file vanished": 0.004,
    # disks and data
    "bit rot at a site": 0.002,
    "update not finite": 0.06,
    # people
    "run paused": 0.002,
    "site paused": 0.004,
    "site withdraws": 0.0015,
    "node revoked": 0.0012,
    "run stopped": 0.0003,
    # time
    "clock jumps": 0.01,
    "clock of a site is set": 0.02,
}
"""Kind -> its highest rate: of each request, transfer, training or step, whatever it may strike."""


@dataclass
class Faults:
    """Draws faults until `over`; counts what was injected."""

    seed: int
    without: frozenset[str] = frozenset()
    over: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        profile = random.Random(f"profile {self.seed}")
        calm = profile.random() < 0.05
        self._rates = {}
        self._streams = {}
        for kind, highest in KINDS.items():
            share = 0.0 if calm else profile.choice((0.0, 0.0, 0.3, 0.3, 1.0))
            self._rates[kind] = 0.0 if kind in self.without else highest * share
            self._streams[kind] = random.Random(f"{kind} {self.seed}")

    def strikes(self, kind: str) -> bool:
        if self.over or self._streams[kind].random() >= self._rates[kind]:
            return False
        self.counts[kind] += 1
        return True

    def draw(self, kind: str) -> random.Random:
        """For how, where and how long it strikes."""
        return self._streams[kind]
