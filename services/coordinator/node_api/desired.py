"""The desired state of one node: a pure function of a snapshot and `now` (rule 1).

A node works on one run: of those it is a member of, the one that started first. A paused run keeps its nodes. A run
that is over keeps those that have still to fetch its last model.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydantic_core import to_json

from coordinator.ledger.replay import first_missing
from coordinator.node_api.snapshot import Fragment, RunSnapshot, Snapshot
from coordinator.nodes.service import health_of
from coordinator.rounds.explain import Explainer
from coordinator.rounds.facts import ACCEPTED
from coordinator.rounds.files import asked
from coordinator.rounds.service import deadline_in_s
from coordinator.tables import NodeRow, ParticipationRow, RoundRow
from hsl_model.protocol.messages import Assignment, DesiredState, Invitation, PublishRequest, Recovery
from hsl_model.protocol.states import (
    MembershipStatus,
    NodeHealth,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)

# Parts that are equal for many nodes: encoded and hashed once for a snapshot, and not once for each node.
_SHARED = ("config", "members", "start", "initial", "announced", "plan", "fused")
_WITHOUT = dict.fromkeys((*_SHARED, "deadline_in_s"), True)


def desired_for(node_id: str, snapshot: Snapshot, now: datetime) -> DesiredState:
    """What should be true of this node now. `version` changes exactly when anything but a duration does."""
    return DesiredState.model_validate_json(told(node_id, snapshot, now).body())


def told(node_id: str, snapshot: Snapshot, now: datetime) -> "Told":
    """The same as it goes over the wire."""
    run = _run_of(node_id, snapshot)
    state = DesiredState.model_construct(  # our own rows, so nothing to validate; the node does
        version="",
        invitations=_invitations(node_id, snapshot),
        roster=run.roster if run else (),
        assignment=_assignment(node_id, run, snapshot.explainer(now), now) if run else None,
        publish=_publish(node_id, snapshot, now),
        finished_runs=_finished(node_id, snapshot),
        # The newest event's number is in a header: as part of the state it would wake every poll with every commit.
        generation=snapshot.ledger.mark.generation,
        revoked=snapshot.revoked,
        recovery=_recovery(node_id, snapshot),
    )
    return _told(state, run)


def _recovery(node_id: str, snapshot: Snapshot) -> Recovery | None:
    """While the ledger is held: why nothing is to be done, and which of this node's records it lacks."""
    since = snapshot.ledger.held_since
    if since is None:
        return None
    return Recovery(
        sentence=f"Since {since:%Y-%m-%d %H:%M} UTC the coordinator's ledger is older than what the sites have seen: "
        "it was restored from a backup. The alliance's admin must run `hsl coordinator recover`; this site's work is "
        "kept as it is.",
        records_from={
            run.facts.run.run_id: first_missing(run.facts.newest)
            for run in snapshot.runs
            if not run.is_over and node_id in run.facts.members
        },
    )


def _run_of(node_id: str, snapshot: Snapshot) -> RunSnapshot | None:
    return next((run for run in snapshot.runs if _works_on(node_id, run)), None)


def _works_on(node_id: str, run: RunSnapshot) -> bool:
    row = run.facts.participations.get(node_id)
    if row is None or run.facts.members[node_id].status != MembershipStatus.ACCEPTED:
        return False
    return not run.is_over or _has_to_catch_up(row)


def _has_to_catch_up(row: ParticipationRow) -> bool:
    return row.reported_at is None and row.reason in ("late", "no_report")


def _invitations(node_id: str, snapshot: Snapshot) -> tuple[Invitation, ...]:
    return tuple(
        Invitation(run_id=run.facts.run.run_id, config=run.facts.config)
        for run in snapshot.runs
        if not run.is_over
        and node_id in run.facts.members
        and run.facts.members[node_id].status == MembershipStatus.INVITED
    )


def _finished(node_id: str, snapshot: Snapshot) -> tuple[str, ...]:
    """Runs that ended or that this node left; not one whose last model it has still to fetch."""
    left = {
        run.facts.run.run_id
        for run in snapshot.runs
        if node_id in run.facts.members and run.facts.members[node_id].status == MembershipStatus.WITHDRAWN
    }
    ended = {run_id for run_id, nodes in snapshot.finished.items() if node_id in nodes}
    catching_up = {run.facts.run.run_id for run in snapshot.runs if run.is_over and _works_on(node_id, run)}
    return tuple(sorted(left | ended - catching_up))


def _publish(node_id: str, snapshot: Snapshot, now: datetime) -> tuple[PublishRequest, ...]:
    """Rule 7: files that others miss and this node keeps."""
    requests = []
    for wanted in (one for run in snapshot.runs for one in run.wanted):
        if node_id in wanted.holders:
            online = {node for node in wanted.holders if _is_online(snapshot.nodes[node], snapshot, now)}
            if node_id in asked(wanted, online, now):
                requests.append(PublishRequest(run_id=wanted.run_id, file_sha256=wanted.file_sha256))
    return tuple(requests)


def _is_online(node: NodeRow, snapshot: Snapshot, now: datetime) -> bool:
    return health_of(node.last_seen_at, now, snapshot.settings) is NodeHealth.ONLINE


def _assignment(node_id: str, run: RunSnapshot, explainer: Explainer, now: datetime) -> Assignment | None:
    facts, row, newest = run.facts, run.facts.participations[node_id], run.facts.newest
    if newest is None:
        return None
    status = ParticipationStatus(row.status)
    return Assignment.model_construct(
        run_id=newest.run_id,
        run_status=RunStatus(facts.run.status),
        config=facts.config,
        members=run.members,
        round_number=newest.round_number,
        round_status=RoundStatus(newest.status),
        participation=status,
        participation_reason=row.reason,
        accepted_sha256=row.update_sha256,
        is_initialiser=_is_initialiser(node_id, run, newest),
        start=run.shelf.start,
        initial=run.shelf.initial,
        # Whoever still trains has no use for it, and would be woken by every announce of the others; whoever is not
        # going to fuse has none at all.
        announced=run.announced if status in ACCEPTED and run.plan is None and node_id in run.will_fuse else (),
        plan=run.plan,
        fused=run.shelf.fused if run.plan is not None and run.plan.fusers else None,
        redo_fusion=row.redo_fusion,
        republish=(row.update_sha256,) if row.republish_since is not None and row.update_sha256 else (),
        keep=run.shelf.keep,
        release_before=run.shelf.release_before,
        deadline_in_s=deadline_in_s(facts, now),
        waiting=explainer.node(facts, node_id) or _still_to_publish(node_id, run),
    )


def _is_initialiser(node_id: str, run: RunSnapshot, newest: RoundRow) -> bool:
    return newest.round_number == 0 and newest.status == RoundStatus.OPEN and run.facts.initialiser() == node_id


def _still_to_publish(node_id: str, run: RunSnapshot) -> str | None:
    """This node misses a file that somebody else has to publish."""
    for wanted in run.wanted:
        if node_id in wanted.by:
            holders = ", ".join(wanted.holders) or "no live member, so an admin must bring a site back that keeps it"
            return f"Since {wanted.since:%Y-%m-%d %H:%M} UTC file {wanted.file_sha256[:12]} is awaited from {holders}."
    return None


@dataclass(frozen=True)
class Told:
    """A desired state in pieces of JSON, the first two without their closing brace; durations apart."""

    state: bytes  # what of the state is this node's alone
    assignment: bytes | None  # what of the assignment is
    durations: bytes
    shared: tuple[Fragment, ...]  # of the assignment
    roster: Fragment

    @cached_property
    def version(self) -> str:
        """SHA-256 over all but the durations, so that time alone wakes nobody."""
        digests = [part.digest for part in (*self.shared, self.roster)]
        return hashlib.sha256(b"\n".join((self.state, self.assignment or b"", *digests))).hexdigest()

    def body(self) -> bytes:
        head = b'{"version":"%s",' % self.version.encode() + self.state[1:]
        if self.assignment is None:
            return b",".join((head, self.roster.text, b'"assignment":null}'))
        begin = b'"assignment":' + self.assignment
        return b",".join((head, self.roster.text, begin, *(part.text for part in self.shared), self.durations)) + b"}}"


def _told(state: DesiredState, run: RunSnapshot | None) -> Told:
    own = state.model_dump_json(exclude={"version": True, "roster": True, "assignment": True}).encode()[:-1]
    wish = state.assignment
    if run is None or wish is None:
        return Told(own, None, b"", (), _fragment({}, "roster", state.roster))
    return Told(
        own,
        wish.model_dump_json(exclude=_WITHOUT).encode()[:-1],
        b'"deadline_in_s":' + to_json(wish.deadline_in_s),
        tuple(_fragment(run.fragments, name, getattr(wish, name)) for name in _SHARED),
        _fragment(run.fragments, "roster", state.roster),
    )


def _fragment(known: dict[str, Fragment], name: str, value: object) -> Fragment:
    key = f"{name} {bool(value)}"  # a part is either the run's own or, for this node, left out
    if key not in known:
        text = b'"%s":' % name.encode() + to_json(value)
        known[key] = Fragment(text, hashlib.sha256(text).digest())
    return known[key]
