"""The only place that reads the time or waits. Everything else takes a `Clock` as an argument."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, aware, UTC: for records a person reads."""

    def monotonic(self) -> float:
        """Seconds that never go backwards: for durations."""

    def wait(self, wake: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on `wake` (held by the caller) until notified or `timeout_s` seconds passed; True if notified."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the one place

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, wake: threading.Condition, timeout_s: float | None) -> bool:
        return wake.wait(timeout_s)


class ManualClock:
    """A clock for tests: moves only when told, so nothing waits for real."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._elapsed_s += seconds

    def wait(self, wake: threading.Condition, timeout_s: float | None) -> bool:
        """Returns at once, as if `timeout_s` had passed. The condition itself is not waited on."""
        del wake
        self.advance(timeout_s or 0.0)
        return False
