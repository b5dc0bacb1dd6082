"""What an admin sees of the ledger, and the recovery after it was restored from a backup.

nodes others know as revoked: revoked again, cut from the hub      first, each in a transaction of its own
completed rounds: written from the nodes' records (replay.py)      ┐
the generation is raised, what nodes said is forgotten             ├ one transaction
runs stay PAUSED until an admin resumes each                       ┘
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.kernel import Kernel
from coordinator.ledger import replay, repository
from coordinator.ledger.errors import LedgerNotHeldError, RecordRefusedError
from coordinator.ledger.repository import LedgerFacts
from coordinator.ledger.schemas import RecoverRequest
from coordinator.ledger.watch import LEDGER_RESTORED
from coordinator.nodes import repository as nodes
from coordinator.nodes import service as node_service
from coordinator.nodes.keys import every_key
from coordinator.rounds import repository as rounds
from coordinator.rounds.facts import RunFacts
from coordinator.rounds.moves import Act, move_run
from coordinator.tables import MemberRow, NodeRow, RecordRow, RunRow, SightingRow
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.ledger import Mark, RecordReport, RoundRecord, verify_record
from hsl_model.protocol.messages import Seen
from hsl_model.protocol.states import NodeStatus, RunStatus
from hsl_model.protocol.views import LedgerView, NodeGapView, RecoveredView, RevokedGapView, RunGapView

_OPEN_RUNS = (RunStatus.DRAFT.value, RunStatus.RUNNING.value, RunStatus.PAUSED.value)


def load_mark(kernel: Kernel) -> None:
    """From now on replies to nodes say which ledger answers."""
    with kernel.snapshot() as session:
        kernel.mark.set(repository.mark_of(session))


def keep_record(act: Act, node: NodeRow, said: RecordReport) -> None:
    """A record that was asked for; the newest of a node and round counts. None is kept of a ledger that is whole."""
    if not repository.is_held(act.session):
        return
    if said.signed is not None:
        try:
            record = verify_record(said.signed, every_key(node))
        except ManifestError as error:
            raise RecordRefusedError(node_id=node.node_id, reason=error.sentence()) from error
        _check_speaker(act, node, record)
        key = (record.run_id, record.round_number, record.node_id)
        row = act.session.get(RecordRow, key, populate_existing=True)
        if row is None:
            row = RecordRow(run_id=record.run_id, round_number=record.round_number, node_id=record.node_id)
            act.session.add(row)
        row.record = record.model_dump(mode="json")
    sighting = act.session.get(SightingRow, node.node_id, populate_existing=True)
    if said.is_last and sighting is not None:
        sighting.answered_at = act.now
    act.session.flush()


def _check_speaker(act: Act, node: NodeRow, record: RoundRecord) -> None:
    if record.node_id != node.node_id:
        raise RecordRefusedError(node_id=node.node_id, reason=f"it is the word of {record.node_id}")
    if act.session.get(MemberRow, (record.run_id, node.node_id)) is None:
        raise RecordRefusedError(node_id=node.node_id, reason=f"it is no member of {record.run_id}")


# --- what is missing -------------------------------------------------------------------------------------------------


def show(session: Session) -> LedgerView:
    facts = repository.facts(session)
    known = nodes.every(session)
    status = {node.node_id: node.status for node in known}
    heard = facts.sightings
    return LedgerView(
        ledger_id=facts.mark.ledger_id,
        generation=facts.mark.generation,
        event_id=facts.mark.event_id,
        is_held=facts.is_held,
        reason=facts.held_because,
        nodes=tuple(_node_gap(node_id, facts) for node_id in sorted(heard)),
        unheard=tuple(
            node.node_id
            for node in known
            if facts.is_held and status[node.node_id] == NodeStatus.ENROLLED and node.node_id not in heard
        ),
        runs=_run_gaps(session, facts, _lost_revocations(facts, known)),
        revoked=tuple(
            RevokedGapView(node_id=node_id, seen_by=seen_by)
            for node_id, seen_by in _lost_revocations(facts, known).items()
        ),
    )


def _node_gap(node_id: str, facts: LedgerFacts) -> NodeGapView:
    seen = facts.sightings[node_id]
    return NodeGapView(
        node_id=node_id,
        generation=seen.generation,
        events_ahead=_events_ahead(seen, facts.mark),
        rounds=seen.rounds,
        has_answered=node_id in facts.answered,
    )


def _events_ahead(seen: Seen, mark: Mark) -> int:
    return 0 if seen.generation < mark.generation else max(0, seen.event_id - mark.event_id)


def _lost_revocations(facts: LedgerFacts, known: Sequence[NodeRow]) -> dict[str, tuple[str, ...]]:
    """Node -> who was told that it is revoked, of those that the ledger does not have as revoked."""
    live = {node.node_id for node in known if node.status != NodeStatus.REVOKED}
    lost: dict[str, list[str]] = {}
    for node_id, seen in sorted(facts.sightings.items()):
        for revoked in sorted(live & set(seen.revoked) - {node_id}):
            lost.setdefault(revoked, []).append(node_id)
    return {node_id: tuple(seen_by) for node_id, seen_by in sorted(lost.items())}


def _run_gaps(session: Session, facts: LedgerFacts, lost: dict[str, tuple[str, ...]]) -> tuple[RunGapView, ...]:
    seen: dict[str, dict[str, int]] = {}
    for node_id, one in facts.sightings.items():
        for run_id, number in one.rounds.items():
            seen.setdefault(run_id, {})[node_id] = number
    gaps = []
    for run_id, by_node in sorted(seen.items()):
        newest_seen = max(by_node.values())
        seen_by = tuple(sorted(node for node, number in by_node.items() if number == newest_seen))
        run = session.get(RunRow, run_id)
        if run is None:
            gaps.append(_gap(run_id, newest_seen, seen_by))
            continue
        view = rounds.look(session, run)
        found, obstacle = replay.replays(session, view, replay.is_gone(view) | frozenset(lost))
        newest = view.newest.round_number if view.newest else None
        if found or obstacle or newest is None or newest_seen > newest:
            gap = _gap(run_id, newest_seen, seen_by)
            numbers = tuple(one.plan.round_number for one in found)
            changes = {"name": run.name, "newest_round": newest, "replayable": numbers, "obstacle": obstacle}
            gaps.append(gap.model_copy(update=changes))
    return tuple(gaps)


def _gap(run_id: str, newest_seen: int, seen_by: tuple[str, ...]) -> RunGapView:
    return RunGapView(
        run_id=run_id,
        name=None,
        newest_round=None,
        newest_seen=newest_seen,
        seen_by=seen_by,
        replayable=(),
        obstacle=None,
    )


# --- recovery --------------------------------------------------------------------------------------------------------


def recover(kernel: Kernel, request: RecoverRequest) -> RecoveredView:
    """Raises `LedgerNotHeldError`, also when the same was asked a moment ago and is done."""
    with kernel.snapshot() as session:
        facts = repository.facts(session)
        if not facts.is_held or facts.mark.generation != request.generation:
            raise LedgerNotHeldError(generation=facts.mark.generation)
        lost = _lost_revocations(facts, nodes.every(session))
    again = tuple(node_id for node_id in lost if node_id not in request.not_revoked)
    for node_id in again:
        node_service.revoke(kernel, node_id)
    with kernel.transaction() as session:
        done = _complete(Act(session, kernel.clock.now(), events.RECOVERY), request, again)
    load_mark(kernel)
    return done


def _complete(act: Act, request: RecoverRequest, revoked: tuple[str, ...]) -> RecoveredView:
    row = repository.lock(act.session)
    if row.held_since is None or row.generation != request.generation:
        raise LedgerNotHeldError(generation=row.generation)
    facts = repository.facts(act.session)
    written = {}
    for run in act.session.scalars(select(RunRow).where(RunRow.status.in_(_OPEN_RUNS)).order_by(RunRow.run_id)).all():
        if numbers := _replay(act, run):
            written[run.run_id] = numbers
    for node in act.session.scalars(select(NodeRow).where(NodeRow.suspended_at.is_not(None))):
        node.suspended_at = None
        if node.status == NodeStatus.ENROLLED:  # an admin says that it is not revoked: its account is made again
            node.hub_cut_at = node.hub_ready_at = None
    unknown = {run_id for seen in facts.sightings.values() for run_id in seen.rounds}
    unknown -= set(act.session.scalars(select(RunRow.run_id).where(RunRow.run_id.in_(unknown))))
    row.generation = 1 + max([row.generation, *(seen.generation for seen in facts.sightings.values())])
    row.held_since = row.held_because = None
    repository.forget(act.session)
    num_rounds = sum(len(numbers) for numbers in written.values())
    events.append(
        act.session, act.now, "ledger.recovered", events.ADMIN, generation=row.generation, num_rounds=num_rounds
    )
    act.session.flush()
    return RecoveredView(
        generation=row.generation,
        revoked=revoked,
        rounds=written,
        unknown_runs=tuple(sorted(unknown)),
        to_resume=tuple(
            act.session.scalars(
                select(RunRow.run_id)
                .where(RunRow.status == RunStatus.PAUSED.value, RunRow.reason == LEDGER_RESTORED)
                .order_by(RunRow.run_id)
            )
        ),
    )


def _replay(act: Act, run: RunRow) -> tuple[int, ...]:
    facts: RunFacts = rounds.look(act.session, run)
    found, _ = replay.replays(act.session, facts, replay.is_gone(facts))
    if found and run.status == RunStatus.DRAFT:  # it was started after the backup
        move_run(act, run, RunStatus.RUNNING, started_at=act.now)
        move_run(act, run, RunStatus.PAUSED, paused_at=act.now, reason=LEDGER_RESTORED)
    for one in found:
        replay.write(act, run.run_id, one)
    return tuple(one.plan.round_number for one in found)
