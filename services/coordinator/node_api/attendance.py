"""Who polls. Known agents are recognised from the snapshot, so that two hundred polls at once touch no table.

Whatever is new (a first request, another boot, a wrong token) takes the way of all other messages, `kit.auth`. When
nodes were seen is written together, every few seconds at most.
"""

import hmac
from datetime import datetime

from sqlalchemy import bindparam, or_, update
from starlette.concurrency import run_in_threadpool

from coordinator.kernel import Kernel
from coordinator.kit.auth import Boot, Standing, digest_of, standing_of
from coordinator.node_api.snapshot import Snapshot
from coordinator.tables import NodeRow, UtcDateTime
from hsl_model.protocol.states import NodeStatus
from hsl_model.protocol.transport import TOKEN_PREFIX

WRITE_EVERY_S = 5.0  # a commit for each of two hundred polls would make every other writer wait
_SEEN = bindparam("seen", type_=UtcDateTime())
_NOTE = (
    update(NodeRow.__table__)  # type: ignore[arg-type]
    .where(NodeRow.node_id == bindparam("node"), or_(NodeRow.last_seen_at.is_(None), NodeRow.last_seen_at < _SEEN))
    .values(last_seen_at=_SEEN)
)


def recognised(snapshot: Snapshot, token: str, boot: Boot, now: datetime) -> str | None:
    """The node whose token and boot these are, if nothing about them is new; else None, which refuses nobody."""
    node = snapshot.nodes.get(token.removeprefix(TOKEN_PREFIX).partition("_")[0])
    if node is None or node.token_hash is None or not hmac.compare_digest(digest_of(token), node.token_hash):
        return None
    known = node.status == NodeStatus.ENROLLED and node.token_used_at is not None and node.suspended_at is None
    return node.node_id if known and standing_of(node, boot, now) is Standing.KNOWN else None


class Attendance:
    """When nodes were seen, until it is written."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._seen: dict[str, datetime] = {}
        self._written_at: datetime | None = None

    async def note(self, node_id: str, now: datetime) -> None:
        self._seen[node_id] = now
        if self._written_at is not None and (now - self._written_at).total_seconds() < WRITE_EVERY_S:
            return
        seen, self._seen, self._written_at = self._seen, {}, now
        await run_in_threadpool(self._write, seen)

    def _write(self, seen: dict[str, datetime]) -> None:
        with self._kernel.transaction() as session:
            rows = [{"node": node_id, "seen": at} for node_id, at in sorted(seen.items())]
            session.connection().execute(_NOTE, rows)
