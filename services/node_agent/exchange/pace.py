"""How fast a site lets its transfers run, and how much of one may be under way at once.

    unlimited   as much in flight as a line of that round trip needs to be full, within bounds that memory allows
    limited     token bucket: `take` returns when the bytes may move; a quarter of a second's worth in flight, so that
                progress shows and a burst never fills the site's line

All transfers of a site share its two buckets, one per direction.
"""

import threading
from collections.abc import Callable

from hsl_model.protocol.clock import Clock, SystemClock

BURST_S = 0.1  # what a late wake-up missed is caught up on, up to this much
TICK_S = 1.0  # somebody who waits is asked this often whether the transfer is still wanted
IN_FLIGHT_S = 0.25


class Bucket:
    """Lets `bytes_per_s` through on average, and never more than `BURST_S` of them too early. None: everything."""

    def __init__(self, bytes_per_s: int | None, clock: Clock) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._changed = threading.Condition()  # nobody notifies it: the clock waits on it
        self._due_s = clock.monotonic()  # when all bytes taken so far have moved, at the permitted speed

    def take(self, num_bytes: int, check: Callable[[], None]) -> None:
        """Wait as long as `num_bytes` may take; meanwhile `check` is called every second and may raise.

        A place in the queue is taken at once, so that two transfers share the speed instead of doubling it.
        """
        if self._bytes_per_s is None:
            return
        with self._changed:
            due_s = max(self._due_s, self._clock.monotonic() - BURST_S) + num_bytes / self._bytes_per_s
            self._due_s = due_s
        while (left_s := due_s - self._clock.monotonic()) > 0:
            check()
            with self._changed:
                self._clock.wait(self._changed, min(left_s, TICK_S))

    def at_once(self, unlimited: int, least: int) -> int:
        """How many bytes may be in flight, where `unlimited` would be."""
        if self._bytes_per_s is None:
            return unlimited
        return min(unlimited, max(least, int(self._bytes_per_s * IN_FLIGHT_S)))


class Pace:
    """A site's limits and the clock they are kept by."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        max_upload_bytes_per_s: int | None = None,
        max_download_bytes_per_s: int | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.up = Bucket(max_upload_bytes_per_s, self.clock)
        self.down = Bucket(max_download_bytes_per_s, self.clock)
