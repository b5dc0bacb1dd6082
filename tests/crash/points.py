"""The hook: every durable step of a process passes here by name, and may be where it dies.

    role         coordinator, hub or a site
    round        the training round it works for; 0 builds the initial weights
    phase        what it was doing: the node's phase, else the thread (errands, poller, …); the coordinator's request
    step         commit, fsync, rename, block, request, reply …, each with what it concerns
    occurrence   the how-manieth time in this life of the process, within the same round, phase and step

The product knows nothing of it: `wraps.py` puts the hook around its few doors to disk and network, in the processes of
the runner only. So it costs nothing in production, not even a check.
"""

import contextvars
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

doing: contextvars.ContextVar[str | None] = contextvars.ContextVar("doing", default=None)


class Point(NamedTuple):
    role: str
    round_number: int
    phase: str
    step: str
    occurrence: int = 1

    def __str__(self) -> str:
        again = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.role} · round {self.round_number} · {self.phase} · {self.step}{again}"

    @property
    def kind(self) -> tuple[str, str, str]:
        """What stays the same over rounds and repetitions."""
        return (self.role, self.phase, self.step)


class Harm(StrEnum):
    KILL = "kill"  # SIGKILL of the process that is there: what was written stays written
    HUB = "hub"  # SIGKILL of the hub in that moment; whoever is there goes on
    POWER = "power"  # the machine's power goes: only what was fsynced is there afterwards
    NAMES = "names"  # the same, but names (renames, deletions) had reached the disk before the bytes


class Strike(NamedTuple):
    point: Point
    harm: Harm = Harm.KILL

    def __str__(self) -> str:
        return f"{self.harm} at {self.point}"


@dataclass
class Watch:
    """One process of a run. Each of `strikes` comes once, in whatever order: markers in `folder` remember it."""

    role: str
    folder: Path
    strikes: tuple[Strike, ...] = ()
    recording: bool = False
    before_power_cut: Callable[[], None] = lambda: None
    phase: str = "start"
    round_number: int = 0
    _counts: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._log = os.open(self.folder / "points.log", flags, 0o600) if self.recording else None

    def enter(self, phase: str, round_number: int) -> None:
        self.phase, self.round_number = phase, round_number

    def reached(self, step: str) -> None:
        phase = doing.get() or self._of_thread()
        with self._lock:
            place = (self.round_number, phase, step)
            self._counts[place] += 1
            point = Point(self.role, *place, self._counts[place])
            if self._log is not None:
                os.write(self._log, ("\t".join(map(str, point)) + "\n").encode())
            for number, strike in enumerate(self.strikes):
                if strike.point == point and not struck(self.folder, number):
                    self._strike(number, strike.harm)

    def _of_thread(self) -> str:
        name = threading.current_thread().name
        if name == "MainThread":
            return self.phase
        return name if name in ("errands", "poller", "heartbeat") else "beside"

    def _strike(self, number: int, harm: Harm) -> None:
        (self.folder / f"struck-{number}").touch()
        if harm is Harm.HUB:
            _kill(int((self.folder / "hub.pid").read_text()))
            return
        if harm in (Harm.POWER, Harm.NAMES):
            self.before_power_cut()  # from here on nothing more reaches the disk
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def _kill(pid: int) -> None:
    """It may be down already: a second crash before it was started again."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def struck(folder: Path, number: int) -> bool:
    return (folder / f"struck-{number}").exists()


def recorded(folder: Path) -> list[Point]:
    lines = (folder / "points.log").read_text().splitlines()
    parts = (line.split("\t") for line in lines)
    return [Point(role, int(number), phase, step, int(occurrence)) for role, number, phase, step, occurrence in parts]
