"""New keys and a new token for a node while it works.

    rotate:   current ──signed by it──> new            both may sign, both tokens are good, the hub gets the new SSH key
    confirm:  a request with the new token             the old token is dead; the old key counts for rounds that were
                                                       open by then, because their updates may be signed with it

A lost reply is harmless: the same rotation again finds itself applied. One that was never confirmed may be replaced by
another of the same old key; so a site that lost its new keys before it used them goes on with the old ones.
"""

from collections.abc import Iterator
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.nodes import provisioning, repository
from coordinator.nodes.errors import HubUnreachableError, RotationRefusedError, RotationTooSoonError
from coordinator.nodes.keys import EarlierKey, KeyHistory, history_of
from coordinator.nodes.public_keys import signing_key, ssh_key
from coordinator.tables import NodeRow
from hsl_model.protocol.messages import RotateRequest
from hsl_model.protocol.rotation import MAX_ROTATIONS, access_digest, is_sound

PAUSE_S = 60.0  # each rotation may restart the hub, which interrupts everybody's transfers
_log = structlog.get_logger(__name__)


def rotate(kernel: Kernel, node_id: str, request: RotateRequest) -> None:
    """Raises `RotationRefusedError`, `RotationTooSoonError`, `PublicKeyError`. The hub follows, at once if it can."""
    with kernel.transaction() as session:
        node = repository.find(session, node_id, lock=True)
        if node is None:
            raise RotationRefusedError(node_id=node_id, reason="there is no such node")
        _apply(session, node, request, kernel.clock.now())
    try:
        provisioning.settle_account(kernel, node_id)
    except HubUnreachableError:
        _log.warning("hub_key_postponed", node_id=node_id)


def _apply(session: Session, node: NodeRow, request: RotateRequest, now: datetime) -> None:
    new_ssh, said = ssh_key(request.ssh_public_key), request.signed.rotation
    _check(node.node_id, request)
    if _is_applied(node, request, new_ssh):
        return
    entries = list(history_of(node).entries)
    if entries and (now - entries[-1].applied_at).total_seconds() < PAUSE_S:
        raise RotationTooSoonError(node_id=node.node_id, seconds=int(PAUSE_S))
    if entries and entries[-1].retired_at is None and said.old == entries[-1].signed.rotation.old:
        entries.pop()  # the site lost those keys before it used them
    elif said.old != node.signing_public_key:
        raise RotationRefusedError(
            node_id=node.node_id, reason="it is not signed by the key that the alliance knows of this node"
        )
    entries.append(EarlierKey(signed=request.signed, applied_at=now))
    changed = [name for name, is_new in _changes(node, said.new, new_ssh) if is_new]
    node.key_history = KeyHistory(entries=tuple(entries[-MAX_ROTATIONS:])).model_dump(mode="json")
    node.signing_public_key, node.ssh_public_key, node.next_token_hash = said.new, new_ssh, request.token_sha256
    if "ssh key" in changed:
        node.hub_ready_at = None
    actor, what = node.node_id, ", ".join((*changed, "token"))
    events.append(session, now, "node.keys_rotated", actor, node_id=actor, changed=what, signing_public_key=said.new)


def _check(node_id: str, request: RotateRequest) -> None:
    said = request.signed.rotation
    signing_key(said.new)
    if said.access_sha256 != access_digest(request.ssh_public_key, request.token_sha256):
        raise RotationRefusedError(node_id=node_id, reason="what was signed is not what was sent")
    if not is_sound(request.signed, node_id):
        raise RotationRefusedError(node_id=node_id, reason="it is not signed by both the old and the new key")


def _is_applied(node: NodeRow, request: RotateRequest, new_ssh: str) -> bool:
    keys = (node.signing_public_key, node.ssh_public_key) == (request.signed.rotation.new, new_ssh)
    return keys and request.token_sha256 in (node.next_token_hash, node.token_hash)


def _changes(node: NodeRow, signing: str, ssh: str) -> Iterator[tuple[str, bool]]:
    yield "signing key", signing != node.signing_public_key
    yield "ssh key", ssh != node.ssh_public_key
