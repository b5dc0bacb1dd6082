"""Tells waiting long polls that something was committed: a number that grows, and a wait that holds no thread.

    generation = notifier.generation      # before looking
    ... look; nothing new ...
    await notifier.wait(generation, timeout_s)

A change between the look and the wait is not lost: `wait` returns at once when the generation has moved on.
"""

import asyncio
import threading

COALESCE_S = 0.05  # a burst of commits wakes every waiting poll once, not once for each commit


class Notifier:
    """`changed` may be called from any thread; `wait` from one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[asyncio.Future[None], int] = {}  # and the generation each has seen
        self._wake_planned = False
        self._closed = False

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def closed(self) -> bool:
        """The process is stopping: a long poll answers with what it has."""
        return self._closed

    @property
    def num_waiting(self) -> int:
        return len(self._waiters)

    def changed(self) -> None:
        with self._lock:
            self._generation += 1
            if self._wake_planned or self._loop is None or self._loop.is_closed():
                return
            self._wake_planned = True
            loop = self._loop
        loop.call_soon_threadsafe(loop.call_later, COALESCE_S, self._wake)

    def close(self) -> None:
        """Let every waiter go at once, now and from now on, so that stopping does not wait for long polls."""
        with self._lock:
            self._closed = True
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    async def wait(self, generation: int, timeout_s: float) -> int:
        """Wait until the generation differs from `generation`, `timeout_s` passed or the process stops; the newest."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._closed or self._generation != generation or timeout_s <= 0:
                return self._generation
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters[waiter] = generation
        try:
            await asyncio.wait({waiter}, timeout=timeout_s)
        finally:
            self._waiters.pop(waiter, None)
        return self._generation

    def _wake(self) -> None:
        """Whoever came after the newest change has seen it, and waits for the next."""
        with self._lock:
            self._wake_planned = False
            due = [waiter for waiter, seen in self._waiters.items() if self._closed or seen != self._generation]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
