"""A run's life: DRAFT -> RUNNING <-> PAUSED -> COMPLETED | STOPPED | FAILED.

Each move answers the same when it is asked for twice, and 409 when the run is somewhere else (rule 2).
"""

import secrets
from collections.abc import Callable

from sqlalchemy.orm import Session

from coordinator.kernel import Kernel
from coordinator.kit.problems import NotFoundError
from coordinator.ledger.repository import refuse_while_held
from coordinator.rounds import repository as rounds
from coordinator.rounds.errors import InvitedNodeError, NotEnoughMembersError, RunStateError
from coordinator.rounds.explain import Explainer, cases_of
from coordinator.rounds.facts import RunFacts
from coordinator.rounds.fusion import DISAGREEMENT, try_again
from coordinator.rounds.moves import Act, move_round, move_run
from coordinator.rounds.quorum import lacking
from coordinator.rounds.tick import advance
from coordinator.runs import repository
from coordinator.tables import MemberRow, RoundRow, RunRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import TruthCounts
from hsl_model.protocol.methods import refuse_outside_studies
from hsl_model.protocol.states import MembershipStatus, RoundStatus, RunStatus
from hsl_model.protocol.views import MemberView, RunView

PAUSED_BY_ADMIN = "paused by an admin"
STOPPED_BY_ADMIN = "stopped by an admin"


def create(act: Act, config: RunConfig) -> str:
    """A DRAFT that invites its nodes. Returns the run's id."""
    refuse_outside_studies(config.method.name)
    known = repository.invitable(act.session, config.nodes)
    if strangers := [node for node in config.nodes if node not in known]:
        raise InvitedNodeError(nodes=", ".join(strangers))
    run_id = f"run-{secrets.token_hex(4)}"
    act.session.add(
        RunRow(
            run_id=run_id,
            name=config.name,
            status=RunStatus.DRAFT.value,
            config=config.model_dump(mode="json"),
            created_at=act.now,
        )
    )
    act.session.flush()
    act.note(f"run.{RunStatus.DRAFT}", run_id, name=config.name, method=config.method.name)
    for node_id in config.nodes:
        act.session.add(MemberRow(run_id=run_id, node_id=node_id, status=MembershipStatus.INVITED.value))
        act.note(f"member.{MembershipStatus.INVITED}", run_id, node_id=node_id)
    act.session.flush()
    return run_id


def start(act: Act, run_id: str) -> None:
    """Needs a quorum of members. Opens round 0, the initial weights."""
    run, _ = _locked(act, run_id)
    if run.status == RunStatus.RUNNING:
        return
    if run.status != RunStatus.DRAFT:
        raise RunStateError(run_id=run_id, status=run.status, verb="be started")
    refuse_while_held(act.session)
    _check_members(rounds.look(act.session, run))
    move_run(act, run, RunStatus.RUNNING, started_at=act.now)
    advance(act, run_id)


def _check_members(facts: RunFacts) -> None:
    accepted = facts.can_join()
    short = lacking(facts.config.quorum, accepted, cases_of(facts, accepted))
    if short is None:
        return
    waiting_for = [node for node, row in facts.members.items() if row.status == MembershipStatus.INVITED]
    raise NotEnoughMembersError(
        run_id=facts.run.run_id, lacking=short, waiting_for=", ".join(waiting_for) or "further sites"
    )


def pause(act: Act, run_id: str) -> None:
    """No training, no new round; deadlines stand still."""
    run, _ = _locked(act, run_id)
    if run.status == RunStatus.PAUSED:
        return
    if run.status != RunStatus.RUNNING:
        raise RunStateError(run_id=run_id, status=run.status, verb="be paused")
    move_run(act, run, RunStatus.PAUSED, paused_at=act.now, reason=PAUSED_BY_ADMIN)


def resume(act: Act, run_id: str) -> None:
    """Deadlines move on by as long as the run stood still."""
    run, newest = _locked(act, run_id)
    if run.status == RunStatus.RUNNING:
        return
    if run.status != RunStatus.PAUSED:
        raise RunStateError(run_id=run_id, status=run.status, verb="be resumed")
    refuse_while_held(act.session)
    stood_still = act.now - (run.paused_at or act.now)
    if newest is not None and newest.deadline_at is not None:
        newest.deadline_at += stood_still
    if newest is not None and newest.report_deadline_at is not None:
        newest.report_deadline_at += stood_still
    act.session.flush()
    disagreed = run.reason == DISAGREEMENT
    move_run(act, run, RunStatus.RUNNING, paused_at=None, reason=None)
    if disagreed:
        try_again(act, run_id)
    advance(act, run_id)


def stop(act: Act, run_id: str) -> None:
    """For good. The open round is CANCELLED; every site keeps its last fused model."""
    run, newest = _locked(act, run_id)
    if run.status == RunStatus.STOPPED:
        return
    if run.status in (RunStatus.COMPLETED, RunStatus.FAILED):
        raise RunStateError(run_id=run_id, status=run.status, verb="be stopped")
    if newest is not None and newest.status in (RoundStatus.OPEN, RoundStatus.FUSING):
        move_round(act, newest, RoundStatus.CANCELLED, reason=STOPPED_BY_ADMIN)
    move_run(act, run, RunStatus.STOPPED, finished_at=act.now, reason=STOPPED_BY_ADMIN)


def moved(kernel: Kernel, actor: str, run_id: str, move: Callable[[Act, str], None]) -> RunView:
    """Move it, then show it; the long answer for a large run is not made while writers wait."""
    now = kernel.clock.now()
    with kernel.transaction() as session:
        move(Act(session, now, actor), run_id)
    with kernel.snapshot() as session:
        return show(session, Explainer(kernel.settings, now), run_id)


def _locked(act: Act, run_id: str) -> tuple[RunRow, RoundRow | None]:
    run = rounds.lock_run(act.session, run_id)
    if run is None:
        raise NotFoundError(what="run", name=run_id)
    return run, rounds.newest_round(act.session, run_id, lock=True)


def show(session: Session, explainer: Explainer, run_id: str) -> RunView:
    session.flush()
    run = session.get(RunRow, run_id)
    if run is None:
        raise NotFoundError(what="run", name=run_id)
    facts = rounds.look(session, run)
    best = session.get(RoundRow, (run_id, facts.run.best_round)) if facts.run.best_round is not None else None
    return _view_of(facts, explainer, best)


def _view_of(facts: RunFacts, explainer: Explainer, best: RoundRow | None) -> RunView:
    run = facts.run
    return RunView(
        run_id=run.run_id,
        name=run.name,
        status=facts.status,
        reason=run.reason,
        waiting=explainer.run(facts),
        round_number=facts.newest.round_number if facts.newest else None,
        num_rounds=facts.config.num_rounds,
        best_round=run.best_round,
        best_mean_auc=best.mean_auc if best else None,
        config=facts.config,
        members=tuple(
            MemberView(
                node_id=node_id,
                status=MembershipStatus(row.status),
                counts=None if row.counts is None else TruthCounts.model_validate(row.counts),
            )
            for node_id, row in facts.members.items()
        ),
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )
