"""The demo's processes: started, looked after, restarted when they die, and ended by their pid, never by a name.

    start ──> running ──died──> restarted (at most MAX_RESTARTS in WINDOW_S, else the demo fails with the log's tail)
                  └──stop_all──> SIGTERM, wait GRACE_S, SIGKILL

processes.json holds pid and start time of each. A demo that was killed leaves it behind: the next start ends what is
still alive. The start time tells a process of ours from a stranger that got the same pid.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from hsl_cli.demo.workdir import Layout
from hsl_cli.errors import CommandError, RefusedError, UnreachableError
from hsl_cli.live import wait
from hsl_model.durable import write_bytes
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import Message

Answer = TypeVar("Answer")
MAX_RESTARTS = 5  # a process that dies at once again and again must fail the demo, not spin
WINDOW_S = 60.0
GRACE_S = 15.0  # an agent that writes its snapshot needs a step's time; one that hangs must not hold up Ctrl-C
TAIL_LINES = 15


class Identity(Message):
    """A process, for certain: its pid, and when it started in the kernel's own words."""

    pid: int
    started: str


class Record(Message):
    processes: dict[str, Identity] = Field(default_factory=dict)


class ProcessFailedError(CommandError):
    """Bears the log's tail: the reason stands there."""

    code = "process_failed"
    template = "{name} {what}. The end of {log}:\n{tail}"


@dataclass(frozen=True)
class Program:
    """What to run: a module of ours, on the leash, with an environment of its own."""

    name: str
    module: str
    environment: Mapping[str, str]


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    restarts: deque[float] = field(default_factory=deque)


class Supervisor:
    def __init__(self, layout: Layout, clock: Clock, note: Callable[[str], None]) -> None:
        self._layout = layout
        self._clock = clock
        self._note = note
        self._running: dict[str, _Running] = {}

    def start(self, program: Program) -> None:
        self._running[program.name] = _Running(program, self._spawn(program))
        self._record()

    def look_after(self) -> None:
        """Restart whatever died since the last call. Raises `ProcessFailedError` when that has become hopeless."""
        for name, one in self._running.items():
            code = one.process.poll()
            if code is None:
                continue
            now = self._clock.monotonic()
            while one.restarts and now - one.restarts[0] > WINDOW_S:
                one.restarts.popleft()
            how = f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}"
            if len(one.restarts) >= MAX_RESTARTS:
                raise self.failed(name, f"{how} for the {MAX_RESTARTS + 1}th time within {WINDOW_S:.0f} s")
            one.restarts.append(now)
            _close(one.process)
            one.process = self._spawn(one.program)
            self._record()
            self._note(f"{name} {how}; restarted (log: {self._layout.log(name)})")

    def wait_for(self, ready: Callable[[], bool], name: str, timeout_s: float) -> None:
        """Wait until `ready`, looking after the processes; `timeout_s` bounds a start that never gets ready."""
        deadline = self._clock.monotonic() + timeout_s
        while not ready():
            self.look_after()
            if self._clock.monotonic() > deadline:
                raise self.failed(name, f"was not ready after {timeout_s:.0f} s")
            wait(self._clock, 0.1)

    def insist(self, action: Callable[[], Answer], name: str, timeout_s: float) -> Answer:
        """What `action` answers; tried again while `name` cannot be reached, for it may just be being restarted."""
        answers: list[Answer] = []

        def answered() -> bool:
            try:
                answers.append(action())
            except UnreachableError:
                return False
            return True

        self.wait_for(answered, name, timeout_s)
        return answers[0]

    def failed(self, name: str, what: str) -> ProcessFailedError:
        log = self._layout.log(name)
        return ProcessFailedError(name=name, what=what, log=log, tail=tail(log))

    def pids(self) -> dict[str, int]:
        return {name: one.process.pid for name, one in self._running.items()}

    def stop_all(self) -> None:
        """SIGTERM to each, agents first, then wait; SIGKILL only after `GRACE_S`. Never raises for a dead process."""
        running = list(reversed(self._running.values()))
        for one in running:
            one.process.terminate()
        deadline = self._clock.monotonic() + GRACE_S
        for one in running:
            try:
                one.process.wait(timeout=max(0.1, deadline - self._clock.monotonic()))
            except subprocess.TimeoutExpired:
                self._note(f"{one.program.name} did not end within {GRACE_S:.0f} s and was killed")
                one.process.kill()
                one.process.wait()
            _close(one.process)
        self._running.clear()
        self._record()

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HSL_")}
        with self._layout.log(program.name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "hsl_cli.demo.leash", program.module],
                stdin=subprocess.PIPE,  # the leash: never written, closed when we end
                stdout=log,
                stderr=log,
                env={**inherited, **program.environment, "PYTHONSAFEPATH": "1"},  # no folder here passes for a module
                cwd=self._layout.root,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends them in order
            )

    def _record(self) -> None:
        found = {name: identity(one.process.pid) for name, one in self._running.items()}
        record = Record(processes={name: one for name, one in found.items() if one is not None})
        write_bytes(self._layout.processes, record.model_dump_json(indent=2).encode())


def end_stale(layout: Layout, clock: Clock, note: Callable[[str], None]) -> None:
    """End the processes that a demo killed in this folder left behind."""
    try:
        record = Record.model_validate_json(layout.processes.read_bytes())
    except FileNotFoundError:
        return
    except ValidationError:
        note(f"{layout.processes} cannot be read; processes of an earlier demo may still be running")
        return
    left = {name: one for name, one in record.processes.items() if identity(one.pid) == one}
    for name, one in left.items():
        note(f"ending {name} (pid {one.pid}), left by an earlier demo")
        _signal(one, signal.SIGTERM)
    deadline = clock.monotonic() + GRACE_S
    for name, one in left.items():
        while identity(one.pid) == one:
            if clock.monotonic() > deadline:
                _signal(one, signal.SIGKILL)
            if clock.monotonic() > deadline + GRACE_S:
                raise RefusedError(reason=f"{name} (pid {one.pid}) of an earlier demo does not end; end it yourself.")
            wait(clock, 0.1)
    layout.processes.unlink(missing_ok=True)


def identity(pid: int) -> Identity | None:
    """The identity of a live process, or None. A zombie is not alive."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # the name before ")" may contain anything
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] == "Z" else Identity(pid=pid, started=f"{boot} {fields[19]}")
    answer = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Identity(pid=pid, started=answer.stdout.strip()) if answer.returncode == 0 else None


def tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines) or "  (nothing was logged)"


def _signal(one: Identity, number: signal.Signals) -> None:
    if identity(one.pid) != one:
        return
    try:
        os.kill(one.pid, number)
    except ProcessLookupError:
        return  # it ended by itself in this moment: what we wanted


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
