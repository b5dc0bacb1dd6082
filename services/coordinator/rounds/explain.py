"""Why a run, a round or a node waits: one sentence that says what is missing, who must act, and since when (rule 13).

Pure functions of the facts and `now`. They name times, not durations, so a sentence changes only when its facts do.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from coordinator.ledger.watch import LEDGER_RESTORED
from coordinator.nodes.service import health_of
from coordinator.rounds.agreement import is_awaited
from coordinator.rounds.facts import UNANNOUNCED, RunFacts, voices_of
from coordinator.rounds.fusion import DISAGREEMENT
from coordinator.rounds.plan import IN_PLAN
from coordinator.rounds.quorum import lacking
from coordinator.rounds.tick import QUORUM_LOST
from coordinator.settings import CoordinatorSettings
from coordinator.tables import NodeRow, ParticipationRow, RoundRow
from hsl_model.protocol.states import (
    MembershipStatus,
    NodeHealth,
    NodePhase,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)

MAX_NAMES = 8  # a sentence that names two hundred nodes is read by nobody


class Explainer:
    """Speaks of one moment of each run, with the coordinator's idea of late and lost."""

    def __init__(self, settings: CoordinatorSettings, now: datetime) -> None:
        self._settings = settings
        self._now = now
        self._said: dict[tuple[str, str], str | None] = {}  # the same for each of two hundred members that wait

    def run(self, facts: RunFacts) -> str | None:
        """What the run waits for; None when it has ended or its next step is under way."""
        match facts.status:
            case RunStatus.DRAFT:
                return self._draft(facts)
            case RunStatus.PAUSED:
                return self._paused(facts)
            case RunStatus.RUNNING:
                return self.round(facts)
            case _:
                return None

    def round(self, facts: RunFacts) -> str | None:
        """What the newest round waits for."""
        return self._once("round", facts, self._round)

    def _once(self, what: str, facts: RunFacts, say: Callable[[RunFacts], str | None]) -> str | None:
        key = (what, facts.run.run_id)
        if key not in self._said:
            self._said[key] = say(facts)
        return self._said[key]

    def _round(self, facts: RunFacts) -> str | None:
        newest = facts.newest
        if newest is None or newest.status not in (RoundStatus.OPEN, RoundStatus.FUSING):
            return None
        if facts.status is RunStatus.PAUSED:
            return self._paused(facts)
        if newest.status == RoundStatus.FUSING:
            return self._fusing(facts, newest)
        if newest.round_number == 0:
            return self._initial(facts, newest)
        return self._collecting(facts, newest)

    def node(self, facts: RunFacts, node_id: str) -> str | None:
        """What one member waits for; None while there is something for it to do."""
        row, newest = facts.participations.get(node_id), facts.newest
        if row is None or newest is None:
            return None
        if facts.status is RunStatus.PAUSED:
            return self._once("paused", facts, self._paused)
        builds = newest.round_number == 0 and facts.initialiser() == node_id
        if newest.status == RoundStatus.OPEN and row.status in UNANNOUNCED and (newest.round_number > 0 or builds):
            return None
        owes = newest.status == RoundStatus.FUSING and row.status in IN_PLAN and row.reported_at is None
        if owes and not (is_awaited(facts) and node_id not in voices_of(newest)):
            return self._update_missing(facts, newest)
        return self.round(facts)

    def _draft(self, facts: RunFacts) -> str:
        invited = [node for node, row in facts.members.items() if row.status == MembershipStatus.INVITED]
        accepted = facts.can_join()
        short = lacking(facts.config.quorum, accepted, cases_of(facts, accepted))
        since = _at(facts.run.created_at)
        if short is None:
            also = f"; {_some(invited)} may still accept" if invited else ""
            return f"Enough sites have accepted; an admin must start the run (created {since}){also}."
        return (
            f"Since {since} the run waits for sites to accept ({short}): the admins of "
            f"{_some(invited) or 'further sites'} must run `hsl node accept`."
        )

    def _paused(self, facts: RunFacts) -> str:
        since = _at(facts.run.paused_at or facts.run.created_at)
        if facts.run.reason == DISAGREEMENT:
            return (
                f"Paused since {since} because the members' fused digests have no majority, twice: an admin must "
                "compare the sites' versions and hardware, revoke the deviating one if need be, and resume."
            )
        if facts.run.reason == QUORUM_LOST:
            short = lacking(facts.config.quorum, self._left(facts)) or "it holds again"
            return (
                f"Paused since {since} because members left and the quorum is lost ({short}): an admin must resume the "
                "run with those that are left, or stop it."
            )
        if facts.run.reason == LEDGER_RESTORED:
            return self._restored(facts, since)
        missing = lacking(facts.config.quorum, self._left(facts))
        left = f", and members have left meanwhile ({missing})" if missing else ""
        return f"Paused by an admin since {since}{left}; an admin must resume the run."

    @staticmethod
    def _restored(facts: RunFacts, since: str) -> str:
        text = f"Paused since {since} because the ledger was restored from a backup"
        if facts.held_because is None:
            return f"{text}; an admin must resume the run."
        return f"{text}. {facts.held_because} An admin must run `hsl coordinator recover`."

    @staticmethod
    def _left(facts: RunFacts) -> list[str]:
        """Who would go on: the members of the open round, or those of the next one."""
        between = facts.newest is None or facts.newest.status == RoundStatus.COMPLETED
        return facts.can_join() if between else facts.staying()

    def _initial(self, facts: RunFacts, newest: RoundRow) -> str:
        builder = facts.initialiser()
        if builder is None:
            failed = facts.having(ParticipationStatus.FAILED)
            return (
                f"Since {_at(newest.opened_at)} round 0 waits for somebody to build the initial weights: "
                f"{self._members(facts, failed)}."
            )
        named = self._member(facts, facts.participations[builder])
        return f"Since {_at(newest.opened_at)} round 0 waits for the initial weights of {named}."

    def _collecting(self, facts: RunFacts, newest: RoundRow) -> str:
        missing = facts.having(*UNANNOUNCED, ParticipationStatus.FAILED)
        announced = facts.having(ParticipationStatus.ANNOUNCED)
        text = (
            f"Round {newest.round_number} (open since {_at(newest.opened_at)}) has {len(announced)} of "
            f"{len(announced) + len(missing)} updates and waits for {self._members(facts, missing)}"
        )
        if newest.deadline_at is None:
            return f"{text}."
        if newest.deadline_at > self._now:
            return f"{text}; its deadline is {_at(newest.deadline_at)}."
        num_cases = sum(row.num_cases or 0 for row in announced)
        short = lacking(facts.config.quorum, [row.node_id for row in announced], num_cases)
        return f"{text}; since its deadline, {_at(newest.deadline_at)}, the quorum is not there ({short})."

    def _fusing(self, facts: RunFacts, newest: RoundRow) -> str:
        if missing := self._update_missing(facts, newest):
            return missing
        since = _at(newest.frozen_at or newest.opened_at)
        if is_awaited(facts):
            return self._awaiting_fusers(facts, newest, since)
        rows = facts.having(*IN_PLAN)
        owing = [row for row in rows if row.reported_at is None]
        text = (
            f"Round {newest.round_number} (plan frozen {since}) has {len(rows) - len(owing)} of {len(rows)} fusion "
            f"reports and waits for {self._members(facts, owing or facts.having(ParticipationStatus.FAILED))}"
        )
        if newest.report_deadline_at is not None and newest.report_deadline_at <= self._now:
            reported = [row for row in rows if row.reported_at is not None]
            short = lacking(facts.config.quorum, [r.node_id for r in reported], sum(r.num_cases or 0 for r in reported))
            return f"{text}; since its deadline, {_at(newest.report_deadline_at)}, the quorum is not there ({short})."
        return f"{text}."

    def _awaiting_fusers(self, facts: RunFacts, newest: RoundRow, since: str) -> str:
        *fusers, audit = voices_of(newest)
        late = [node for node in fusers if not facts.spoken.is_done(node)]
        named = self._members(facts, [facts.participations[node] for node in late or [audit]])
        text = f"Round {newest.round_number} (plan frozen {since}) is fused by {', '.join(fusers)} for all members"
        if late:
            return f"{text} and waits for the fused file of {named}."
        return f"{text}, whose digests differ, and waits for the audit by {named}."

    def _update_missing(self, facts: RunFacts, newest: RoundRow) -> str | None:
        """Rule 5: an owner has been asked to publish its update again."""
        return self._once("update", facts, lambda facts: self._republish(facts, newest))

    def _republish(self, facts: RunFacts, newest: RoundRow) -> str | None:
        asked = [row for row in facts.participations.values() if row.republish_since is not None]
        if not asked:
            return None
        since = min(row.republish_since for row in asked if row.republish_since)
        files = _some([(row.update_sha256 or "")[:12] for row in asked])
        return (
            f"Round {newest.round_number}: an update ({files}) cannot be found on the hub since {_at(since)}; it must "
            f"be published again by {self._members(facts, asked)}."
        )

    def _members(self, facts: RunFacts, rows: Sequence[ParticipationRow]) -> str:
        named = [self._member(facts, row) for row in rows[:MAX_NAMES]]
        more = len(rows) - len(named)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")

    def _member(self, facts: RunFacts, row: ParticipationRow) -> str:
        """ "node-b (lost, last seen 2026-01-01 11:40 UTC: its admin must bring the agent back)"."""
        node = facts.nodes[row.node_id]
        return f"{row.node_id} ({self._state(row, node)})"

    def _state(self, row: ParticipationRow, node: NodeRow) -> str:
        health = health_of(node.last_seen_at, self._now, self._settings)
        if node.last_seen_at is None or health is NodeHealth.NEVER_SEEN:
            return "never seen: its admin must start the agent"
        if health is NodeHealth.LOST:
            return f"lost, last seen {_at(node.last_seen_at)}: its admin must bring the agent back"
        if health is NodeHealth.LATE:
            return f"late, last seen {_at(node.last_seen_at)}"
        if row.status == ParticipationStatus.FAILED or node.phase == NodePhase.FAILED:
            why = row.reason or node.failure or "the site's log says why"
            return f"failed: its admin must run `hsl node retry` after {why}"
        if node.paused_by_site:
            return "paused by its site's admin, who must resume it"
        return node.phase if node.phase and node.phase != NodePhase.IDLE else "online"


def cases_of(facts: RunFacts, nodes: Sequence[str]) -> int:
    """Training cases by the truth reports that the sites sent when they accepted."""
    total = 0
    for node in nodes:
        counts = facts.members[node].counts
        if counts is not None:
            total += int(counts["training"]["positive"]) + int(counts["training"]["negative"])
    return total


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
