"""What every waiting node is told from: read once after each change, shared by all polls.

Rows are detached: nothing here reads or writes the database once `load` has returned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy import Select, and_, bindparam, or_, select
from sqlalchemy.orm import Session

from coordinator.ledger import repository as ledger
from coordinator.ledger.repository import LedgerFacts
from coordinator.nodes.keys import roster_entry
from coordinator.rounds import files, repository
from coordinator.rounds.explain import Explainer
from coordinator.rounds.facts import RunFacts, departure
from coordinator.rounds.files import Shelf, Wanted
from coordinator.settings import CoordinatorSettings
from coordinator.tables import MemberRow, NodeRow, RunRow, UtcDateTime
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import MAX_SEEN, Announced, FusionPlan, RosterEntry
from hsl_model.protocol.states import MembershipStatus, NodeStatus, ParticipationStatus, RunStatus

CATCH_UP_S = 7 * 86400.0  # a site that missed the end of a run still gets the final model within a week
LAST_ROUND = 1_000_000  # above every round number
MAX_FINISHED = 200  # runs that are named as finished; a site that was away for longer keeps files it could drop
_LIVE = (RunStatus.DRAFT.value, RunStatus.RUNNING.value, RunStatus.PAUSED.value)
ENDED = (RunStatus.COMPLETED.value, RunStatus.STOPPED.value, RunStatus.FAILED.value)


_TO_SERVE = select(RunRow).where(
    or_(
        RunRow.status.in_(_LIVE),
        and_(
            RunRow.status == RunStatus.COMPLETED.value,
            RunRow.finished_at > bindparam("catching_up", type_=UtcDateTime()),
        ),
    )
)
_FINISHED = (
    select(RunRow.run_id).where(RunRow.status.in_(ENDED)).order_by(RunRow.finished_at.desc()).limit(MAX_FINISHED)
)


@dataclass(frozen=True)
class Fragment:
    """A member of a JSON object, `"name":value`, and its SHA-256."""

    text: bytes
    digest: bytes


@dataclass(frozen=True)
class RunSnapshot:
    facts: RunFacts
    shelf: Shelf = field(default_factory=Shelf)
    wanted: tuple[Wanted, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.facts.run.status in ENDED

    @cached_property
    def plan(self) -> FusionPlan | None:
        return self.facts.plan()

    @cached_property
    def will_fuse(self) -> frozenset[str]:
        """Who fuses this round if nobody leaves it."""
        staying = self.facts.staying()
        chosen = self.facts.election().among(staying)
        return frozenset(staying if chosen.audit is None else (*chosen.names, chosen.audit))

    @cached_property
    def members(self) -> tuple[str, ...]:
        return tuple(self.facts.participations)

    @cached_property
    def roster(self) -> tuple[RosterEntry, ...]:
        """Whose signatures count: the members of the round, and whoever signed an update of the plan."""
        owners = {entry.node_id for entry in self.plan.entries} if self.plan else set()
        if self.facts.newest is None:
            return ()
        opened_at = self.facts.newest.opened_at
        return tuple(
            roster_entry(node, opened_at)
            for node_id in self.members
            if (node := self.facts.nodes[node_id]).signing_public_key is not None
            and (departure(self.facts, node_id) is None or node_id in owners)
        )

    @cached_property
    def announced(self) -> tuple[Announced, ...]:
        return tuple(
            Announced.model_validate(
                {"node_id": row.node_id, "update_sha256": row.update_sha256, "update_bytes": row.update_bytes}
            )
            for row in self.facts.having(ParticipationStatus.ANNOUNCED)
        )

    @cached_property
    def fragments(self) -> dict[str, Fragment]:
        """The large parts that many nodes share, encoded by `desired.py`."""
        return {}


@dataclass(frozen=True)
class Snapshot:
    settings: CoordinatorSettings
    nodes: Mapping[str, NodeRow] = field(default_factory=dict)
    runs: tuple[RunSnapshot, ...] = ()  # the first that wants a node gets it: longest running first, ended ones last
    finished: Mapping[str, frozenset[str]] = field(default_factory=dict)  # run id -> nodes that took part in it
    ledger: LedgerFacts = field(default_factory=LedgerFacts)

    @cached_property
    def revoked(self) -> tuple[str, ...]:
        """As many as a node remembers and sends back, should the ledger forget them."""
        return tuple(sorted(node for node, row in self.nodes.items() if row.status == NodeStatus.REVOKED))[:MAX_SEEN]

    @cached_property
    def newest_rounds(self) -> dict[str, int]:
        """Of every run at hand, -1 before its first round. A run that has ended is behind nobody."""
        newest = dict.fromkeys(self.finished, LAST_ROUND)
        for run in self.runs:
            newest[run.facts.run.run_id] = run.facts.newest.round_number if run.facts.newest else -1
        return newest

    def explainer(self, now: datetime) -> Explainer:
        """Of the second that `now` is in, so that polls that are answered together share its sentences."""
        moment = now.replace(microsecond=0)
        if moment not in self._explainers:
            self._explainers.clear()
            self._explainers[moment] = Explainer(self.settings, moment)
        return self._explainers[moment]

    @cached_property
    def _explainers(self) -> dict[datetime, Explainer]:
        return {}


class Loader:
    """Reads snapshots. Remembers what cannot change any more: configurations, and who was in a run that ended."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._configs: dict[str, RunConfig] = {}
        self._ended: dict[str, frozenset[str]] = {}

    def load(self, session: Session, now: datetime) -> Snapshot:
        nodes = repository.all_nodes(session)
        catching_up = now - timedelta(seconds=CATCH_UP_S)
        rows = session.scalars(_TO_SERVE, {"catching_up": catching_up}).all()
        runs = [self._run(session, row, nodes) for row in rows]
        finished = self._finished(session)
        of_ledger = ledger.facts(session)
        session.expunge_all()
        self._configs = {run.facts.run.run_id: run.facts.config for run in runs}
        return Snapshot(self._settings, nodes, tuple(sorted(runs, key=_urgency)), finished, of_ledger)

    def _run(self, session: Session, row: RunRow, nodes: Mapping[str, NodeRow]) -> RunSnapshot:
        facts = repository.look(session, row, self._configs.get(row.run_id), nodes)
        if facts.newest is None:
            return RunSnapshot(facts)
        shelf = files.shelf(session, facts.run, facts.newest)
        return RunSnapshot(facts, shelf, files.wanted_in(session, row.run_id))

    def _finished(self, session: Session) -> dict[str, frozenset[str]]:
        run_ids = session.scalars(_FINISHED).all()
        self._ended = {
            run_id: self._ended.get(run_id) or frozenset(session.scalars(_took_part(run_id))) for run_id in run_ids
        }
        return dict(self._ended)


def _took_part(run_id: str) -> Select[str]:
    return select(MemberRow.node_id).where(
        MemberRow.run_id == run_id, MemberRow.status != MembershipStatus.INVITED.value
    )


def _urgency(run: RunSnapshot) -> tuple[bool, datetime, str]:
    row = run.facts.run
    return run.is_over, row.started_at or row.created_at, row.run_id
