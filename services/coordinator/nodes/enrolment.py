"""Enrolment: a one-time code and two public keys in, a token and the hub's pinned address out.

    look: the code is good  ->  the hub makes the account  ->  one transaction: the code is still good, keys, token

The hub comes first, outside any transaction, so that a hub that is down uses up nothing. The same code with the same
keys is answered again, with a fresh token, until a request carries the token: a reply that was lost costs nothing.
"""

import hashlib
import hmac
from datetime import datetime

from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.kit.auth import digest_of
from coordinator.kit.guard import guarded_update
from coordinator.ledger.repository import refuse_while_held
from coordinator.nodes import provisioning, repository
from coordinator.nodes.errors import EnrolmentCodeError
from coordinator.nodes.public_keys import signing_key, ssh_key
from coordinator.nodes.service import normalised_code
from coordinator.tables import NodeRow
from hsl_model.protocol.messages import EnrolReply, EnrolRequest
from hsl_model.protocol.states import NodeStatus
from hsl_model.protocol.transport import new_token


def enrol(kernel: Kernel, request: EnrolRequest) -> EnrolReply:
    """Raises `EnrolmentCodeError`, `PublicKeyError`, `HubUnreachableError`."""
    keys = _Keys(request)
    code_hash = digest_of(normalised_code(request.code))
    with kernel.snapshot() as session:
        refuse_while_held(session)
        node_id = _node_of(session, code_hash, keys, kernel.clock.now()).node_id
    address = provisioning.make_account(kernel, node_id, keys.ssh)
    try:
        with kernel.transaction() as session:
            node = _node_of(session, code_hash, keys, kernel.clock.now(), lock=True)
            token = _admit(session, node, keys, request.agent_version, kernel.clock.now())
    except EnrolmentCodeError:
        with kernel.transaction() as session:  # another enrolment or a revocation came between: the hub has our key
            repository.doubt_hub(session, node_id)
        raise
    return EnrolReply(node_id=node_id, alliance=kernel.settings.alliance, token=token, hub=address)


class _Keys:
    """The public keys of a request."""

    def __init__(self, request: EnrolRequest) -> None:
        self.ssh = ssh_key(request.ssh_public_key)
        self.signing = signing_key(request.signing_public_key)
        self.digest = hashlib.sha256(f"{self.ssh}\n{self.signing}".encode()).hexdigest()


def _node_of(session: Session, code_hash: str, keys: _Keys, now: datetime, *, lock: bool = False) -> NodeRow:
    """The node this code admits these keys to."""
    node = repository.find_by_code(session, code_hash, lock=lock)
    if node is None or node.code_expires_at is None or node.code_expires_at <= now:
        raise EnrolmentCodeError
    if node.code_taken_by is not None and not hmac.compare_digest(node.code_taken_by, keys.digest):
        raise EnrolmentCodeError
    return node


def _admit(session: Session, node: NodeRow, keys: _Keys, agent_version: str, now: datetime) -> str:
    """Everything that was known of an earlier agent of this node is forgotten: its keys, its token, its boots."""
    token = new_token(node.node_id)
    moved = guarded_update(
        session,
        NodeRow,
        node.node_id,
        (NodeStatus.CREATED, NodeStatus.ENROLLED),
        NodeStatus.ENROLLED,
        code_taken_by=keys.digest,
        token_hash=digest_of(token),
        token_used_at=None,
        next_token_hash=None,
        key_history=None,
        ssh_public_key=keys.ssh,
        signing_public_key=keys.signing,
        hub_ready_at=now,
        boot_number=None,
        boot_id=None,
        boot_at=None,
        duplicate_at=None,
        enrolled_at=now,
    )
    if not moved:
        raise EnrolmentCodeError
    events.append(session, now, "node.enrolled", node.node_id, node_id=node.node_id, agent_version=agent_version)
    return token
