"""A node's signing keys over time: the present one, those it rotated away from, and which of them still count.

An update may be signed with an earlier key while its node has not confirmed the new ones, and after that in rounds that
were open by then.
"""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.tables import NodeRow
from hsl_model.protocol.config import Message
from hsl_model.protocol.messages import RosterEntry
from hsl_model.protocol.rotation import SignedRotation


class EarlierKey(Message):
    signed: SignedRotation  # from this key to the next
    applied_at: datetime
    retired_at: datetime | None = None  # None: its node has not used the new token yet


class KeyHistory(Message):
    """Oldest first, at most `MAX_ROTATIONS`."""

    entries: tuple[EarlierKey, ...] = ()


def history_of(node: NodeRow) -> KeyHistory:
    return KeyHistory() if node.key_history is None else KeyHistory.model_validate(node.key_history)


def confirm(session: Session, node: NodeRow, now: datetime) -> None:
    """The node spoke with its new token: it has the new keys, so the old token and, in time, the old key are done."""
    node.token_hash, node.next_token_hash, node.token_used_at = node.next_token_hash, None, now
    entries = tuple(
        one if one.retired_at else one.model_copy(update={"retired_at": now}) for one in history_of(node).entries
    )
    node.key_history = KeyHistory(entries=entries).model_dump(mode="json")
    events.append(session, now, "node.keys_confirmed", node.node_id, node_id=node.node_id)


def roster_entry(node: NodeRow, opened_at: datetime) -> RosterEntry:
    """What a round that opened at `opened_at` is told of a node's keys."""
    entries = history_of(node).entries
    return RosterEntry(
        node_id=node.node_id,
        signing_public_key=node.signing_public_key or "",
        rotations=tuple(one.signed for one in entries if one.signed.rotation.old != one.signed.rotation.new),
        earlier=tuple(dict.fromkeys(_earlier(node, opened_at))),
    )


def _earlier(node: NodeRow, opened_at: datetime) -> Iterator[str]:
    for one in history_of(node).entries:
        old = one.signed.rotation.old
        if old != node.signing_public_key and (one.retired_at is None or one.retired_at >= opened_at):
            yield old


def every_key(node: NodeRow) -> tuple[str, ...]:
    """The present key and all that are remembered: for what was signed in rounds long over."""
    return (node.signing_public_key or "", *(one.signed.rotation.old for one in history_of(node).entries))


def signing_keys(node: NodeRow, opened_at: datetime) -> tuple[str, ...]:
    """The keys by which an update of that round may be signed, the present one first."""
    return (node.signing_public_key or "", *_earlier(node, opened_at))
