"""Who fuses a round for all (design 4.9). A pure function of the run, the round and its members, so that it can be
foreseen while the round is open: those who will probably fuse fetch what peers announce, and nobody else does.

    sorted members       a b c d e f        k = 2, round 1: begin at 1 · 2 = 2
    fusers                   ^ ^            the first k from there on that can; round 2 begins at 4
    audit                            ^      by lot among the others: the smallest SHA-256 of run, round and node
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hsl_model.protocol.config import RunConfig


@dataclass(frozen=True)
class Fusers:
    names: tuple[str, ...] = ()  # empty: everybody fuses
    audit: str | None = None


EVERYBODY = Fusers()


@dataclass(frozen=True)
class Election:
    """One round's. `members` are all that were in it when it opened, so the places do not shift when one leaves."""

    config: RunConfig
    run_id: str
    round_number: int
    members: Sequence[str]

    def among(self, candidates: Collection[str], held: Fusers = EVERYBODY) -> Fusers:
        """Those of `held` who are still candidates, and as many others as are missing. With too few: everybody.

        Round 0 has one update, so there is nothing to save.
        """
        k = self.config.num_fusers(len(self.members)) if self.round_number > 0 else None
        if k is None or len(candidates) < k + 1:
            return EVERYBODY
        names = [node for node in held.names if node in candidates]
        audit = held.audit if held.audit in candidates else None
        for node in self._in_turn(k):
            if len(names) < k and node in candidates and node not in (*names, audit):
                names.append(node)
        return Fusers(tuple(sorted(names)), audit or min(set(candidates) - set(names), key=self._lot))

    def _in_turn(self, k: int) -> list[str]:
        members = sorted(self.members)
        begin = self.round_number * k % len(members)
        return members[begin:] + members[:begin]

    def _lot(self, node_id: str) -> str:
        return hashlib.sha256(f"{self.run_id}/{self.round_number}/{node_id}".encode()).hexdigest()
