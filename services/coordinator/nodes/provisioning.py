"""The hub's accounts follow the tables. Always outside a transaction: a slow hub must not hold the database."""

from collections.abc import Collection
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.hub.admin import ComparingHubAdmin, Drift, DriftKind, HubAdmin, HubAdminError, RosterAccount
from coordinator.kernel import Kernel
from coordinator.nodes import repository
from coordinator.nodes.errors import HubUnknownError, HubUnreachableError
from coordinator.rounds import retention
from hsl_model.protocol.messages import HubAddress, HubPlace
from hsl_model.protocol.paths import COORDINATOR_USER
from hsl_model.protocol.states import NodeStatus

_log = structlog.get_logger(__name__)
_ADVICE = {
    DriftKind.UNKNOWN: "It was cut. If it was to be a node, add it under another id.",
    DriftKind.REVOKED: "It was cut again. Find out who had opened it.",
    DriftKind.MISSING: "Give the node a new code (`hsl nodes add NODE --new-code`) and let its site enrol again.",
    DriftKind.CLOSED: "Give the node a new code (`hsl nodes add NODE --new-code`) and let its site enrol again.",
    DriftKind.KEY: "Find out whose key that is; a new code and enrolment, or a revocation, sets it right.",
    DriftKind.RIGHTS: "Somebody changed them, or the coordinator's settings did; the node's next enrolment sets them.",
}


def make_account(kernel: Kernel, node_id: str, ssh_public_key: str) -> HubAddress:
    """Folder, user and key; done twice is done once, and written down once. Raises `HubUnreachableError`."""
    hub, now = kernel.hub, kernel.clock.now
    try:
        hub.ensure_node(node_id)
        with kernel.transaction() as session:
            if repository.note_made(session, node_id, now()):
                _tell(session, now(), "hub.folder_made", node_id)
                _tell(session, now(), "hub.user_made", node_id)
        hub.set_key(node_id, ssh_public_key)
        with kernel.transaction() as session:
            if repository.note_key(session, node_id, ssh_public_key):
                _tell(session, now(), "hub.key_set", node_id, ssh_public_key=ssh_public_key)
        return hub.address(node_id)
    except HubAdminError as error:
        raise _unreachable(node_id, error) from error


def hub_place(hub: HubAdmin) -> HubPlace:
    """Raises `HubUnknownError`."""
    try:
        address = hub.address(COORDINATOR_USER)
    except HubAdminError as error:
        raise HubUnknownError from error
    return HubPlace(host=address.host, port=address.port)


def settle_account(kernel: Kernel, node_id: str) -> None:
    """Give the hub what the tables say of an enrolled node. Raises `HubUnreachableError`; a beat tries again."""
    with kernel.snapshot() as session:
        node = repository.find(session, node_id)
        ssh_public_key = None if node is None or node.status != NodeStatus.ENROLLED else node.ssh_public_key
    if ssh_public_key is None:
        return
    make_account(kernel, node_id, ssh_public_key)
    with kernel.transaction() as session:
        if not repository.note_account(session, node_id, ssh_public_key, kernel.clock.now()):
            repository.doubt_hub(session, node_id)  # revoked, or other keys, while the hub took these


def _tell(session: Session, now: datetime, kind: str, node_id: str, **data: events.EventValue) -> None:
    events.append(session, now, kind, events.TICK, None, None, node_id, **data)


def address(kernel: Kernel, node_id: str) -> HubAddress:
    """Raises `HubUnreachableError`."""
    try:
        return kernel.hub.address(node_id)
    except HubAdminError as error:
        raise _unreachable(node_id, error) from error


def cut_account(kernel: Kernel, node_id: str) -> None:
    """End the node's access and its live connections. Raises `HubUnreachableError`; a beat tries again."""
    try:
        kernel.hub.cut(node_id)
    except HubAdminError as error:
        raise _unreachable(node_id, error) from error
    with kernel.transaction() as session:
        if repository.note_cut(session, node_id, kernel.clock.now()):
            _tell(session, kernel.clock.now(), "hub.cut", node_id)


def catch_up(kernel: Kernel, *, only_cuts: bool = False) -> None:
    """Do what the hub missed while it was down. Stops at the first failure; the next beat goes on."""
    with kernel.snapshot() as session:
        revoked = [node.node_id for node in repository.awaiting_cut(session)]
        awaiting = [] if only_cuts else repository.awaiting_account(session)
        enrolled = [node.node_id for node in awaiting]
    for node_id in revoked:
        cut_account(kernel, node_id)
    for node_id in enrolled:
        settle_account(kernel, node_id)


def all_accounts(kernel: Kernel) -> list[str]:
    """Every node that has, or had, a folder on the hub."""
    with kernel.snapshot() as session:
        return repository.ever_enrolled(session)


def tidy(kernel: Kernel, node_id: str) -> None:
    """Delete from a node's folder what retention releases. Done twice is done once; raises `HubUnreachableError`."""
    try:
        names = [file.name for file in kernel.hub.list(node_id)]
        with kernel.snapshot() as session:
            free = retention.released(session, node_id, names)
        if not free:
            return
        kernel.hub.release(node_id, free)
    except HubAdminError as error:
        raise _unreachable(node_id, error) from error
    with kernel.transaction() as session:
        retention.forget(session, node_id, free, kernel.clock.now())
    _log.info("hub_tidied", node_id=node_id, num_files=len(free))


def compare(kernel: Kernel, before: Collection[Drift]) -> tuple[Drift, ...]:
    """Hold the hub's users against the ledger. Who was cut becomes an event at once, another difference where it was
    there `before` as well: the hub has a key a moment earlier than the ledger, so it may be an enrolment under way.

    Returns the differences that were not there before and may be looked at once more. Raises `HubUnreachableError`.
    """
    hub = kernel.hub
    if not isinstance(hub, ComparingHubAdmin):
        return ()

    def roster() -> dict[str, RosterAccount]:
        with kernel.snapshot() as session:
            return {
                node.node_id: RosterAccount(node.ssh_public_key, node.status == NodeStatus.REVOKED)
                for node in repository.every(session)
            }

    try:
        drifts = hub.drift(roster)
    except HubAdminError as error:
        raise _unreachable("its users", error) from error
    known = roster()
    with kernel.transaction() as session:
        for drift in (one for one in drifts if one.kind.is_cut or one in before):
            node_id = drift.username if drift.username in known else None
            what: dict[str, events.EventValue] = {
                "username": drift.username,
                "what": drift.kind.value,
                "cut": drift.kind.is_cut,
                "advice": _ADVICE[drift.kind],
            }
            events.append(session, kernel.clock, "hub.drift", events.TICK, None, None, node_id, **what)
            _log.warning("hub_drift", **what)
    return tuple(drift for drift in drifts if not drift.kind.is_cut and drift not in before)


def _unreachable(node_id: str, error: HubAdminError) -> HubUnreachableError:
    """What the hub said is for the admin's log; a site learns only that it has to wait."""
    _log.warning("hub_refused", node_id=node_id, code=error.code, reason=error.sentence())
    return HubUnreachableError(node_id=node_id)
