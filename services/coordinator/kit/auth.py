"""Who is speaking: the alliance's admin, or one node and which start of its agent.

Of one identity only one live agent may speak (rule 3). Each start of an agent raises a boot number in its journal and
draws a boot id:

    the boot we know                    -> speaks
    a higher number                     -> a restart: becomes the boot we know
    the same number, another id,
    or a lower number                   -> refused; and when it comes later than `GRACE_S` after the boot we know
                                           began, two agents are alive: from then on every new boot is refused too,
                                           until an admin releases the node
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Header
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.kit.session import KernelDep
from coordinator.nodes.keys import confirm
from coordinator.tables import NodeRow
from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.states import NodeStatus
from hsl_model.protocol.transport import BOOT_ID_HEADER, BOOT_NUMBER_HEADER, TOKEN_PREFIX

SERVED_VERSIONS = (PROTOCOL_VERSION, PROTOCOL_VERSION - 1)
GRACE_S = 10.0  # a request that its dying process had still on the way is not a second agent
SEEN_STEP_S = 5.0  # `last_seen_at` is written this often at most: 200 nodes must not mean 200 commits a second


class AdminTokenError(HslError):
    code = "admin_token_invalid"
    http_status = 401
    title = "Not the admin's token"
    template = "Send the coordinator's admin token as `Authorization: Bearer ...`."
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - read only


class NodeTokenError(HslError):
    code = "node_token_invalid"
    http_status = 401
    title = "Not a valid node token"
    template = (
        "This node token is not valid (any more); enrol again with a new code from the alliance's admin "
        "(`hsl node enrol --again` keeps the site's keys and models)."
    )
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - read only


class NodeRevokedError(HslError):
    code = "node_revoked"
    http_status = 403
    title = "The node was revoked"
    template = "Node {node_id} was revoked by the alliance's admin; ask there if this is a mistake."


class NodeSuspendedError(HslError):
    """Not a revocation: an admin decides, so the agent keeps its work and asks again."""

    code = "node_suspended"
    http_status = 403
    title = "The node is suspended"
    template = (
        "The coordinator's ledger was restored from a backup, and other sites know node {node_id} as revoked; the "
        "alliance's admin must decide (`hsl coordinator recover`)."
    )


class ProtocolVersionError(HslError):
    code = "protocol_version"
    http_status = 426
    title = "This protocol version is not served"
    template = (
        f"The request's {PROTOCOL_HEADER} is {{got}}; this coordinator serves {SERVED_VERSIONS[0]} and "
        f"{SERVED_VERSIONS[1]}. Upgrade whichever of the two is older; the agent's journal stays intact."
    )
    headers = {"Upgrade": f"hsl/{PROTOCOL_VERSION}", "Connection": "Upgrade"}  # noqa: RUF012 - read only


class DuplicateInstanceError(HslError):
    code = "duplicate_instance"
    http_status = 409
    title = "Another agent holds this identity"
    template = (
        "Another agent is speaking as node {node_id} (boot {boot_number}). Stop one of the two; if none should be "
        "running elsewhere, ask the admin to release the node with `hsl nodes release {node_id}`."
    )


def digest_of(secret: str) -> str:
    """What is stored of a token or code. SHA-256 is enough: they are random, so there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


_admin_scheme = HTTPBearer(auto_error=False, scheme_name="admin", description="the coordinator's admin token")
_node_scheme = HTTPBearer(auto_error=False, scheme_name="node", description="the token of the enrolment reply")
Bearer = HTTPAuthorizationCredentials | None


async def require_admin(kernel: KernelDep, bearer: Annotated[Bearer, Depends(_admin_scheme)]) -> str:
    expected = digest_of(kernel.settings.admin_token.get_secret_value())
    if not hmac.compare_digest(digest_of(bearer.credentials if bearer else ""), expected):
        raise AdminTokenError
    return events.ADMIN


async def check_protocol(version: Annotated[str | None, Header(alias=PROTOCOL_HEADER)] = None) -> None:
    if version not in {str(served) for served in SERVED_VERSIONS}:
        raise ProtocolVersionError(got=(version or "missing")[:16])


@dataclass(frozen=True)
class Boot:
    number: int
    boot_id: str


async def _boot(
    number: Annotated[int, Header(alias=BOOT_NUMBER_HEADER, ge=0, le=2**31 - 1)],
    boot_id: Annotated[str, Header(alias=BOOT_ID_HEADER, min_length=1, max_length=64)],
) -> Boot:
    return Boot(number, boot_id)


def _node(
    kernel: KernelDep,
    protocol: Annotated[None, Depends(check_protocol)],
    bearer: Annotated[Bearer, Depends(_node_scheme)],
    boot: Annotated[Boot, Depends(_boot)],
) -> str:
    """The id of the node that speaks. What is learnt of it is committed at once, whatever becomes of the request."""
    del protocol
    token = bearer.credentials if bearer else ""
    now = kernel.clock.now()
    with kernel.snapshot() as session:
        node = _identify(session, token)
        standing = standing_of(node, boot, now)
        known = standing is Standing.KNOWN and node.token_used_at is not None and not _is_next(node, token)
        nothing_new = known and _recently_seen(node, now)
    if not nothing_new:
        standing = _remember(kernel, token, boot, now)
    if standing in (Standing.STALE, Standing.SECOND):
        raise DuplicateInstanceError(node_id=node.node_id, boot_number=boot.number)
    return node.node_id


AdminDep = Annotated[str, Depends(require_admin)]
NodeDep = Annotated[str, Depends(_node)]


def _identify(session: Session, token: str, *, lock: bool = False) -> NodeRow:
    node_id = token.removeprefix(TOKEN_PREFIX).partition("_")[0]
    node = session.get(NodeRow, node_id, with_for_update=True if lock else None)
    if not (_is(token, node.token_hash if node else None) | _is_next(node, token)) or node is None:
        raise NodeTokenError
    if node.status != NodeStatus.ENROLLED:
        raise NodeRevokedError(node_id=node.node_id)
    if node.suspended_at is not None:
        raise NodeSuspendedError(node_id=node.node_id)
    return node


def _is(token: str, known: str | None) -> bool:
    """In the same time whatever is known."""
    return hmac.compare_digest(digest_of(token), known or digest_of("")) and known is not None


def _is_next(node: NodeRow | None, token: str) -> bool:
    """Whether this is the token of a rotation, spoken with for the first time."""
    return _is(token, node.next_token_hash if node else None)


class Standing(StrEnum):
    """What a boot is to us; the table in the module's docstring."""

    KNOWN = "known"
    RESTART = "restart"
    STALE = "stale"  # refused
    SECOND = "second"  # refused, and proves a second live agent


def standing_of(node: NodeRow, boot: Boot, now: datetime) -> Standing:
    if node.boot_number is None or node.boot_at is None:
        return Standing.RESTART
    if (boot.number, boot.boot_id) == (node.boot_number, node.boot_id):
        return Standing.KNOWN
    if node.duplicate_at is not None:
        return Standing.STALE
    if boot.number > node.boot_number:
        return Standing.RESTART
    return Standing.SECOND if (now - node.boot_at).total_seconds() > GRACE_S else Standing.STALE


def _recently_seen(node: NodeRow, now: datetime) -> bool:
    return node.last_seen_at is not None and (now - node.last_seen_at).total_seconds() < SEEN_STEP_S


def _remember(kernel: Kernel, token: str, boot: Boot, now: datetime) -> Standing:
    with kernel.transaction() as session:
        node = _identify(session, token, lock=True)
        standing = standing_of(node, boot, now)
        if standing is Standing.SECOND:
            node.duplicate_at = now
            events.append(
                session, now, "node.duplicate_refused", node.node_id, node_id=node.node_id, boot_number=boot.number
            )
        elif standing in (Standing.KNOWN, Standing.RESTART):
            node.last_seen_at = now
            if _is_next(node, token):
                confirm(session, node, now)
            if node.token_used_at is None:
                node.token_used_at = now
                if node.code_taken_by is not None:  # the reply to the enrolment arrived: its code is spent
                    node.code_hash = node.code_expires_at = node.code_taken_by = None
            if standing is Standing.RESTART:
                node.boot_number, node.boot_id, node.boot_at = boot.number, boot.boot_id, now
                events.append(
                    session, now, "node.agent_started", node.node_id, node_id=node.node_id, boot_number=boot.number
                )
        return standing
