"""The loop of one hospital's agent.

    read the journal's row ──> decide (reconcile.py) ──> Hold     wait until something changes
              ^                                      ├─> Move     write the row ─────────────────────────┐
              │                                      └─> Proceed  retry_at not reached: wait until then  │
              │                                                   else call PHASES[row.phase]:           │
              │                                                     (phase, facts) ── write the row ─────┤
              │                                                     NotYet         ── wait for a change  │
              │                                                     transient error ─ write retry_at ────┤
              │                                                     permanent error ─ FAILED, live on ───┤
              └──────────────────────────────────────────────────────────────────────────────────────────┘

Beside it run the poller (desired state), the heartbeat, the errands and the site API. They talk through the mailbox and
its one Condition: whatever changes wakes this loop, a training child included. Nobody sleeps, and a lost message costs
nothing, because everything is decided from the row and the newest desired state.
"""

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from hsl_model.protocol.retry import FailureKind, RetryPolicy
from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.errors import Interrupted, NotYet, failure_of
from node_agent.facts import RoundFacts
from node_agent.journal import PhaseRow
from node_agent.phases import PhaseFunction
from node_agent.reconcile import Hold, Move, situation

logger = structlog.get_logger(__name__)

AGAIN = 0.0  # wait no time: decide anew
CHANGE = None  # wait until something changes


class Daemon:
    def __init__(
        self,
        context: Context,
        phases: Mapping[NodePhase, PhaseFunction],
        retry: RetryPolicy,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._context = context
        self._phases = phases
        self._retry = retry
        self._draw = draw or secrets.SystemRandom().random  # spreads the retries of many sites after one outage

    def run(self) -> None:
        """Until the mailbox says `stopping`. Then the child has written its snapshot and ended."""
        context = self._context
        context.begin_phase()
        try:
            while (seen := self._begin_turn()) is not None:
                self._wait(seen, self._turn_or_wait())
        finally:
            context.end_trainer()
            context.hub.drop()

    def _turn_or_wait(self) -> float | None:
        """A journal that cannot be written (a full disk) cannot keep `retry_at` either: the same row a little later."""
        try:
            return self.turn()
        except (sqlite3.Error, OSError) as error:
            failure = failure_of(error)
            logger.warning("the journal cannot be used", code=failure.code, reason=failure.sentence, exc_info=error)
            self._context.mailbox.waiting = failure.sentence
            return self._retry.cap_s

    def _begin_turn(self) -> int | None:
        """The generation this turn decides on; None when the agent is to end."""
        box = self._context.mailbox
        with box.changed:
            if box.stopping:
                return None
            if box.retry_requested:
                box.retry_requested = False
                self._context.journal.retry_now()
            return box.generation

    def _wait(self, seen: int, wait_s: float | None) -> None:
        box, clock = self._context.mailbox, self._context.clock
        end_s = None if wait_s is None else clock.monotonic() + wait_s
        with box.changed:
            while not box.stopping and box.generation == seen:
                left_s = None if end_s is None else end_s - clock.monotonic()
                if left_s is not None and left_s <= 0:
                    return
                clock.wait(box.changed, left_s)

    def turn(self) -> float | None:
        """One decision and what follows from it; how long to wait then."""
        context = self._context
        context.row = row = context.journal.current()
        decision = context.decision()
        if isinstance(decision, Hold):
            self._explain(decision.reason)
            return CHANGE
        if isinstance(decision, Move):
            self._enter(row, decision.phase, decision.facts)
            return AGAIN
        if row.retry_at is not None:
            left_s = (row.retry_at - context.clock.now()).total_seconds()
            if left_s > 0:
                return min(left_s, self._retry.cap_s)  # a wall clock that was set back must not stop us for a year
        return self._call(row)

    def _call(self, row: PhaseRow) -> float | None:
        context = self._context
        if row.facts is None:
            raise LookupError(f"{row.phase} without facts")
        try:
            phase, facts = self._phases[row.phase](context, row.facts)
        except NotYet as wait:
            self._explain(wait.reason)
            return self._retry.cap_s if wait.look_again else CHANGE
        except Interrupted:
            return AGAIN
        except Exception as error:  # noqa: BLE001 - the boundary of every phase: recorded in the journal
            self._failed(row, error)
            return AGAIN
        self._enter(row, phase, facts)
        return AGAIN

    def _enter(self, row: PhaseRow, phase: NodePhase, facts: RoundFacts | None) -> None:
        context = self._context
        same_round = facts is not None and row.facts is not None and facts.key == row.facts.key
        if facts is not None and same_round and row.phase not in (NodePhase.IDLE, NodePhase.FAILED):
            facts = facts.model_copy(update={"costs": context.costs(facts)})
        context.journal.move(phase, facts)
        about = facts or row.facts
        logger.info(
            "phase",
            phase=phase,
            run_id=about and about.run_id,
            round_number=about and about.round_number,
            left=not facts,
        )
        with context.mailbox.change():
            context.mailbox.waiting = None
        context.begin_phase()
        if facts is None:
            self._leave()

    def _leave(self) -> None:
        """The round is nobody's concern any more: the child ends, half-received files go. Models stay."""
        context = self._context
        context.end_trainer()
        context.hub.drop()
        context.store.remove_parts()
        with context.mailbox.change():
            context.mailbox.missing = frozenset()

    def _failed(self, row: PhaseRow, error: Exception) -> None:
        context = self._context
        context.hub.drop()
        if not context.may_finish():
            return  # broken off because the round is left, or the agent ends: not a failure
        failure = failure_of(error)
        trace = error if failure.kind is FailureKind.BUG else None
        logger.warning("phase failed", phase=row.phase, code=failure.code, reason=failure.sentence, exc_info=trace)
        delay_s = self._retry.delay_s(row.attempt, failure.kind, self._draw())
        if delay_s is None:
            context.journal.fail(failure, situation(context.mailbox.desired))
        else:
            retry_at = context.clock.now() + timedelta(seconds=delay_s)
            context.journal.postpone(retry_at, failure, row.attempt + 1)
        with context.mailbox.change():
            context.mailbox.revoked = context.mailbox.revoked or failure.code == "node_revoked"
            context.mailbox.waiting = failure.sentence
            context.mailbox.progress = None

    def _explain(self, reason: str) -> None:
        box = self._context.mailbox
        if box.waiting != reason:
            with box.change():
                box.waiting = reason
