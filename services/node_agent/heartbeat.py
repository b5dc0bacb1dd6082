"""The heartbeat: one thread that tells the coordinator what this node is doing, at intervals and when that changes."""

import sqlite3
import threading
from functools import partial

import structlog

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import Heartbeat
from hsl_model.protocol.states import NodePhase
from node_agent.coordinator_client import CoordinatorClient, CoordinatorError
from node_agent.errors import AgentError, failure_of
from node_agent.journal import Journal
from node_agent.mailbox import Mailbox
from node_agent.poller import pause

logger = structlog.get_logger(__name__)


class HeartbeatThread(threading.Thread):
    def __init__(
        self, client: CoordinatorClient, journal: Journal, mailbox: Mailbox, clock: Clock, interval_s: float
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._client = client
        self._journal = journal
        self._mailbox = mailbox
        self._clock = clock
        self._interval_s = interval_s

    def run(self) -> None:
        """A heartbeat that is lost is not sent again: the next one says more."""
        while not self._mailbox.stopping:
            said: tuple[object, ...] = ()
            try:
                message = self.message()
                said = _situation(message)
                self._client.heartbeat(message)
            except (CoordinatorError, AgentError, sqlite3.Error) as error:  # also a journal that cannot be read
                logger.debug("a heartbeat was lost", code=failure_of(error).code)
            pause(self._mailbox, self._clock, self._interval_s, partial(self._has_news, said))

    def message(self) -> Heartbeat:
        row = self._journal.current()
        waiting, failure = self._mailbox.waiting, None
        if row.phase is NodePhase.FAILED and row.failure is not None:  # anything else is tried again by itself
            failure = f"{row.failure.code}: {row.failure.sentence}"[:500]
        return Heartbeat(
            phase=row.phase,
            run_id=row.facts.run_id if row.facts else None,
            round_number=row.facts.round_number if row.facts else None,
            progress=self._mailbox.progress,
            waiting=waiting[:500] if waiting else None,
            failure=failure,
            paused_by_site=self._mailbox.paused,
        )

    def _has_news(self, said: tuple[object, ...]) -> bool:
        return self._mailbox.stopping or (said != () and _situation(self.message()) != said)


def _situation(message: Heartbeat) -> tuple[object, ...]:
    """What is worth a heartbeat of its own; progress and reasons for waiting come with the next one."""
    return (message.phase, message.run_id, message.round_number, message.failure, message.paused_by_site)
