"""The one scheduled job: a tick over the tables, then the hub, and now and then one folder of it is tidied.

The truth is in the tables, so a tick that is missed, late or cut short costs nothing but time: the next one does it.
"""

from collections.abc import Callable
from datetime import UTC

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from coordinator.events.service import TICK
from coordinator.hub.admin import Drift
from coordinator.kernel import Kernel
from coordinator.ledger import repository as ledger
from coordinator.ledger import watch
from coordinator.nodes import provisioning
from coordinator.nodes.errors import HubUnreachableError
from coordinator.rounds.moves import Act
from coordinator.rounds.tick import tick

HUB_PAUSE_S = 5.0  # a hub that hangs until its timeout must not hold up every tick
SECOND_LOOK_S = 30.0  # by then an enrolment that was under way has ended
TIDY_EVERY_S = 600.0  # a hub's disk fills by rounds, not by seconds
_log = structlog.get_logger(__name__)


class Beat:
    """What the job does each time. Remembers only what is still to be done with the hub, and when it last failed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._hub_again_at = float("-inf")
        self._tidy_again_at = kernel.clock.monotonic() + TIDY_EVERY_S
        self._untidy: list[str] = []  # nodes whose folders are still to be looked at
        self._compare_again_at = float("-inf")
        self._suspects: tuple[Drift, ...] = ()  # what the first look at the hub's users found

    def __call__(self) -> None:
        self._safely("tick", self._tick)
        if self._kernel.clock.monotonic() >= self._hub_again_at and not self._safely("hub", self._hub):
            self._hub_again_at = self._kernel.clock.monotonic() + HUB_PAUSE_S

    def _tick(self) -> None:
        with self._kernel.transaction() as session:
            now = self._kernel.clock.now()
            watch.pause_if_held(session, Act(session, now, TICK))
            tick(session, now)

    def _hub(self) -> None:
        with self._kernel.snapshot() as session:
            is_held = ledger.is_held(session)
        provisioning.catch_up(self._kernel, only_cuts=is_held)
        if is_held:  # a restored ledger may not know whose accounts and files these are
            return
        self._compare()
        self._tidy()

    def _compare(self) -> None:
        """Once a start, as soon as the hub answers and has what it missed; what differs is looked at twice."""
        now_s = self._kernel.clock.monotonic()
        if now_s < self._compare_again_at:
            return
        is_second = bool(self._suspects)
        self._suspects = provisioning.compare(self._kernel, self._suspects)
        self._compare_again_at = now_s + SECOND_LOOK_S if self._suspects and not is_second else float("inf")

    def _tidy(self) -> None:
        """One folder a beat: two hundred at once would hold up the next tick."""
        now_s = self._kernel.clock.monotonic()
        if now_s >= self._tidy_again_at:
            self._tidy_again_at = now_s + TIDY_EVERY_S
            self._untidy = provisioning.all_accounts(self._kernel)
        if self._untidy:
            provisioning.tidy(self._kernel, self._untidy[-1])
            self._untidy.pop()  # after: a hub that was down is asked again

    @staticmethod
    def _safely(part: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except HubUnreachableError:  # said in the log where it happened; the hub comes back some time
            return False
        except Exception as error:  # noqa: BLE001 - the thread's boundary: one bad tick must not end the schedule
            _log.error("beat_failed", part=part, error=type(error).__name__, exc_info=error)
            return False
        return True


def start_schedule(kernel: Kernel) -> BackgroundScheduler:
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_job(
        Beat(kernel), "interval", seconds=kernel.settings.tick_interval_s, max_instances=1, coalesce=True, id="beat"
    )
    scheduler.start()
    return scheduler
