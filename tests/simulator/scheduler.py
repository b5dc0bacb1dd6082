"""A seeded scheduler on a virtual clock. Every thread of the real programs is a greenlet here: one runs at a time, and
which one goes on is drawn.

    choose one of those that may go on ──> it runs until it waits (clock.wait), sleeps, or pauses at a crossing
                 ^        none may: the clock jumps to the next one's time                │
                 └────────────────────────────────────────────────────────────────────────┘

No thread, no real waiting, no order that the seed does not decide.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
FOREVER = float("inf")


class Killed(GreenletExit):
    """The process this greenlet belongs to is gone: nothing behind this point has happened."""


class Wake:
    """A `threading.Condition` for greenlets of one thread: nobody else can be inside, so there is nothing to lock."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Wake":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def notify_all(self) -> None:
        self.count += 1


@dataclass(eq=False)
class Task:
    name: str
    owner: str
    work: greenlet
    role: str
    due_s: float = 0.0
    wake: Wake | None = None
    seen: int = 0

    def may_go_on(self, now_s: float) -> bool:
        return self.due_s <= now_s or (self.wake is not None and self.wake.count != self.seen)


@dataclass
class Scheduler:
    """`Clock` of everything that is simulated, too."""

    rng: random.Random
    tasks: list[Task] = field(default_factory=list)
    eagerness: dict[str, float] = field(default_factory=dict)  # of a role: how likely it goes on before the others
    now_s: float = 0.0
    num_steps: int = 0
    trace: deque[str] = field(default_factory=lambda: deque(maxlen=4000))

    # --- the clock ---------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now_s)

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, wake: Any, timeout_s: float | None) -> bool:
        task = self.current()
        task.wake, task.seen = wake, wake.count
        task.due_s = FOREVER if timeout_s is None else self.now_s + timeout_s
        self._leave()
        notified, task.wake = wake.count != task.seen, None
        return bool(notified)

    # --- what a task does --------------------------------------------------------------------------------------------

    def current(self) -> Task:
        here = getcurrent()
        return next(task for task in self.tasks if task.work is here)

    def sleep(self, seconds: float) -> None:
        self.current().due_s = self.now_s + seconds
        self._leave()

    def crossing(self) -> None:
        """Others may run here, and the process may die here."""
        self.sleep(0.0)

    def _leave(self) -> None:
        task = self.current()
        parent = task.work.parent
        assert parent is not None
        parent.switch()

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now_s:8.1f} {text}")

    # --- driving -----------------------------------------------------------------------------------------------------

    def start(self, owner: str, name: str, work: Callable[[], object]) -> None:
        self.tasks.append(Task(name, owner, greenlet(work), name.rpartition(".")[2], due_s=self.now_s))

    def kill(self, owner: str) -> None:
        """All tasks of a process die where they are."""
        for task in [task for task in self.tasks if task.owner == owner]:
            self.tasks.remove(task)
            if not task.work.dead:
                task.work.throw(Killed())

    def step(self) -> None:
        """Let one task run. Raises whatever it raises: a program that dies of an exception is a finding."""
        ready = [task for task in self.tasks if task.may_go_on(self.now_s)]
        if not ready:
            self.now_s = min(task.due_s for task in self.tasks)
            ready = [task for task in self.tasks if task.may_go_on(self.now_s)]
        task = (
            ready[0]
            if len(ready) == 1
            else self.rng.choices(ready, [self.eagerness.get(t.role, 1.0) for t in ready])[0]
        )
        task.due_s = self.now_s
        self.num_steps += 1
        task.work.switch()
        if task.work.dead and task in self.tasks:
            self.tasks.remove(task)


@dataclass
class SiteClock:
    """A machine's wall clock, wrong by `ahead_s`, and set while its programs run; how long things last is true."""

    scheduler: Scheduler
    ahead_s: float = 0.0

    def now(self) -> datetime:
        return self.scheduler.now() + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return self.scheduler.monotonic()

    def wait(self, wake: Any, timeout_s: float | None) -> bool:
        return self.scheduler.wait(wake, timeout_s)

    def crossing(self) -> None:
        self.scheduler.crossing()
