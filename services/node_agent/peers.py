"""Which signing key this site believes each of the other nodes to have, whatever the coordinator says of it.

    a node seen for the first time            its key is kept                      "first"
    another key, signed by the one kept       is kept in its place, at once        "rotated"
    any other key                             HELD: nothing of that node is fetched or believed, until the site's admin
                                              says yes to that very key            "admin"

The same goes for the hub's host key, which was pinned at the enrolment: another one that the coordinator tells is held
until the admin says yes. Held keys are not written down: they are what the newest desired state still says.
"""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import HubAddress, RosterEntry
from hsl_model.protocol.rotation import ancestry
from node_agent.journal import Journal

HUB = "hub"  # beside node ids: no node of this name may be confused with it, so it is asked for first
logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Known:
    """The key that is believed of a node, since when, and why: first, rotated, admin."""

    node_id: str
    key: str
    since: datetime
    how: str


@dataclass(frozen=True)
class Held:
    """A key that waits for the site's admin. `name`: a node, or the hub."""

    name: str
    known: str
    offered: str

    @property
    def sentence(self) -> str:
        """Also for `hsl node status` while a phase waits for it."""
        if self.name == HUB:
            what = "The coordinator says that the hub has another host key than the one this site pinned."
        else:
            what = f"{self.name} has another signing key, and its earlier key did not sign that."
        return (
            f"{what} Ask there, by telephone, whether the key is now {fingerprint(self.offered)}; if it is, say so "
            f"with `hsl node trust {self.name}`."
        )


class Peers:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def known(self) -> list[Known]:
        with self._journal.transaction() as connection:
            rows = connection.execute("SELECT * FROM peer_keys ORDER BY node_id").fetchall()
        return [Known(row["node_id"], row["key"], datetime.fromisoformat(row["since"]), row["how"]) for row in rows]

    def look(self, roster: Iterable[RosterEntry]) -> dict[str, Held]:
        """Take in what may be believed at once; what may not, by node."""
        held: dict[str, Held] = {}
        with self._journal.transaction():
            known = {one.node_id: one.key for one in self.known()}
            for entry in roster:
                ours, theirs = known.get(entry.node_id), entry.signing_public_key
                if ours is None:
                    self._keep(entry.node_id, theirs, "first")
                elif ours == theirs:
                    continue
                elif ours in ancestry(entry.node_id, theirs, entry.rotations):
                    self._keep(entry.node_id, theirs, "rotated")
                    logger.info("a node rotated its signing key", node_id=entry.node_id, key=fingerprint(theirs))
                else:
                    held[entry.node_id] = Held(entry.node_id, ours, theirs)
        return held

    def keys_of(self, entry: RosterEntry) -> tuple[str, ...]:
        """By which this node's updates of the round may be signed; none while its key is held."""
        if self.look([entry]):
            return ()
        lineage = ancestry(entry.node_id, entry.signing_public_key, entry.rotations)
        return (entry.signing_public_key, *(key for key in lineage[1:] if key in entry.earlier))

    def trust(self, held: Held) -> None:
        self._keep(held.name, held.offered, "admin")

    def _keep(self, node_id: str, key: str, how: str) -> None:
        with self._journal.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO peer_keys (node_id, key, since, how) VALUES (?, ?, ?, ?)",
                (node_id, key, self._clock.now().isoformat(), how),
            )

    # --- the hub -----------------------------------------------------------------------------------------------------

    def offer_hub(self, hub: HubAddress) -> None:
        """What the coordinator says where the hub is, after the hub showed a key that is not the pinned one."""
        with self._journal.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO offered_hub (id, hub) VALUES (1, ?)", (hub.model_dump_json(),))

    def offered_hub(self) -> HubAddress | None:
        with self._journal.transaction() as connection:
            row = connection.execute("SELECT hub FROM offered_hub WHERE id = 1").fetchone()
        try:
            return None if row is None else HubAddress.model_validate_json(row["hub"])
        except ValidationError:
            return None

    def held_hub(self, pinned: HubAddress) -> Held | None:
        offered = self.offered_hub()
        if offered is None or offered.host_key.split()[:2] == pinned.host_key.split()[:2]:
            return None
        return Held(HUB, pinned.host_key, offered.host_key)


def fingerprint(key: str) -> str:
    """As ssh-keygen shows one: of an OpenSSH line, or of the base64 of a signing key."""
    words = key.split()
    try:
        raw = base64.b64decode(words[1] if len(words) > 1 else key, validate=True)
    except ValueError:
        return "no key"
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
