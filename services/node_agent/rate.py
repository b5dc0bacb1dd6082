"""How fast bytes move: over the last seconds, so that what is shown is what the line does now."""

from collections import deque

from hsl_model.protocol.clock import Clock

WINDOW_S = 5.0
KNOWN_AFTER_S = 1.0  # a rate over less jumps with every block
SAMPLE_EVERY_S = 0.25


class Rate:
    """Of one transfer. Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()  # (when, done by then), oldest first

    def add(self, done: int) -> None:
        """`done` bytes so far. The first call says where the transfer began: what was there before is not counted."""
        now_s = self._clock.monotonic()
        if not self._samples or now_s - self._samples[-1][0] >= SAMPLE_EVERY_S:
            self._samples.append((now_s, done))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    def per_s(self, done: int) -> float | None:
        """Bytes per second up to now; None until that is known."""
        if not self._samples:
            return None
        since_s, before = self._samples[0]
        elapsed_s = self._clock.monotonic() - since_s
        return max(0, done - before) / elapsed_s if elapsed_s >= KNOWN_AFTER_S else None
