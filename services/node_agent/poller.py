"""The long poll: one thread that keeps the desired state in the mailbox as new as the line allows.

    ask, with what we know and what we miss ──> an answer: into the mailbox, ask again
                                            └─> a failure: said on the status page, ask again after a growing pause

It never gives up: a revoked node, a wrong token or an outdated version may be put right while the agent runs.
"""

import sqlite3
import threading
from collections.abc import Callable

import structlog

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import DesiredRequest
from hsl_model.protocol.retry import FailureKind, RetryPolicy
from node_agent.coordinator_client import CoordinatorClient, CoordinatorError
from node_agent.errors import AgentError, failure_of
from node_agent.mailbox import Mailbox

logger = structlog.get_logger(__name__)

# A coordinator that answers at once although nothing changed would otherwise be asked thousands of times a second.
MIN_PAUSE_S = 1.0


class Poller(threading.Thread):
    def __init__(
        self, client: CoordinatorClient, mailbox: Mailbox, clock: Clock, wait_s: float, retry: RetryPolicy
    ) -> None:
        super().__init__(name="poller", daemon=True)
        self._client = client
        self._mailbox = mailbox
        self._clock = clock
        self._wait_s = wait_s
        self._retry = retry

    def run(self) -> None:
        attempt = 0
        while not self._mailbox.stopping:
            began_s = self._clock.monotonic()
            known = self._mailbox.desired.version if self._mailbox.desired else None
            missing = tuple(sorted(self._mailbox.missing))[:16]
            try:
                desired = self._client.desired(
                    DesiredRequest(known_version=known, wait_s=self._wait_s, missing=missing)
                )
            except (CoordinatorError, AgentError, sqlite3.Error) as error:  # also a ledger that cannot be written
                self._failed(error)
                pause_s = self._retry.delay_s(attempt, FailureKind.CONNECTION, 0.5) or self._retry.cap_s
                attempt += 1
            else:
                attempt = 0
                self._answered()
                if desired.version != known:
                    with self._mailbox.change():
                        self._mailbox.desired = desired
                    pause_s = desired.poll_again_in_s
                else:
                    too_fast = self._clock.monotonic() - began_s < self._wait_s / 2
                    pause_s = max(desired.poll_again_in_s, MIN_PAUSE_S if too_fast else 0.0)
            pause(self._mailbox, self._clock, pause_s, lambda: self._mailbox.stopping)

    def _answered(self) -> None:
        box = self._mailbox
        box.contact_at_s = self._clock.monotonic()
        if box.contact_failure is not None or box.revoked:
            logger.info("the coordinator answers again")
            with box.change():
                box.contact_failure, box.revoked = None, False

    def _failed(self, error: CoordinatorError | AgentError | sqlite3.Error) -> None:
        failure = failure_of(error)
        if failure != self._mailbox.contact_failure:
            logger.warning("the coordinator cannot be asked", code=failure.code, reason=failure.sentence)
            with self._mailbox.change():
                self._mailbox.contact_failure = failure
                self._mailbox.revoked = failure.code == "node_revoked"


def pause(mailbox: Mailbox, clock: Clock, seconds: float, until: Callable[[], bool]) -> None:
    """Wait on the one Condition, for `seconds` or until something is so, whatever else changes meanwhile."""
    end_s = clock.monotonic() + seconds
    with mailbox.changed:
        while not until() and (left_s := end_s - clock.monotonic()) > 0:
            clock.wait(mailbox.changed, left_s)
