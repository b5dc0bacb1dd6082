"""The daemon's side of the training child: start it, ask it, stop it, survive it.

One child lives as long as a run does. The daemon waits on its one Condition, so a change of the desired state reaches a
training child at once: `keep_going` turns false, `Interrupt` goes down the pipe, the child writes a snapshot and says
`Stopped`. A child that dies is started again by the next call; the phase is repeated from the last snapshot.
"""

import contextlib
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import Message
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted, TrainerDiedError, TrainerFailedError, TrainerStalledError
from node_agent.mailbox import Mailbox
from node_agent.trainer.messages import REPLY, Failed, FinalReply, Interrupt, Progressed, Stopped, to_line

Answer = TypeVar("Answer", bound=Message)
logger = structlog.get_logger(__name__)

# Writing a snapshot of the largest network to a slow disk takes seconds; a child that needs longer is stuck.
INTERRUPT_S = 60.0


def _ignore(done: int, total: int) -> None:
    del done, total


class Trainer:
    def __init__(self, command: tuple[str, ...], run_folder: Path, mailbox: Mailbox, clock: Clock) -> None:
        self._command = (*command, str(run_folder))
        self._run_folder = run_folder
        self._mailbox = mailbox
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._replies: deque[Progressed | FinalReply] = deque()
        self._status: int | None = None  # exit status, once the child's output has ended

    @property
    def run_folder(self) -> Path:
        return self._run_folder

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._status is not None else self._process.pid

    def ask(
        self,
        request: Message,
        answer: type[Answer],
        *,
        keep_going: Callable[[], bool],
        progress: Callable[[int, int], None] | None = None,
        stall_s: float | None = None,
    ) -> Answer:
        """The child's answer. `stall_s`: how long it may go without progress before it is ended.

        Raises `Interrupted` (snapshot written), `TrainerFailedError` (the child's own error), `TrainerDiedError`,
        `TrainerStalledError`; after the last two the next call starts a new child.
        """
        self._ensure_running()
        try:
            with self._mailbox.changed:
                self._write(request)
                reply = self._wait(keep_going, progress or _ignore, stall_s)
        except TrainerStalledError:
            self.close(patience_s=0.0)
            raise
        if isinstance(reply, Failed):
            raise TrainerFailedError(reply.failure_kind, reply.code, reply.sentence)
        if isinstance(reply, Stopped):
            raise Interrupted
        if not isinstance(reply, answer):
            raise TrainerFailedError(FailureKind.BUG, "trainer_confused", f"The child answered {reply.kind!r}.")
        return reply

    def close(self, patience_s: float = INTERRUPT_S) -> None:
        """End the child: closing its stdin makes it write a snapshot and exit. Killed if it does not.

        Never with the Condition held: the reader thread needs it to say its last word.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()

    def _ensure_running(self) -> None:
        if self._process is not None and self._status is None:
            return
        self.close()
        self._run_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._status = None
        self._replies.clear()
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(self._process,), name="trainer-reader", daemon=True)
        self._reader.start()
        logger.info("training child started", pid=self._process.pid)

    def _write(self, request: Message) -> None:
        if self._process is None or self._process.stdin is None:
            raise TrainerDiedError(status=self._status)
        with contextlib.suppress(BrokenPipeError):  # it has ended: the reader says so in a moment
            self._process.stdin.write(to_line(request))
            self._process.stdin.flush()

    def _wait(
        self, keep_going: Callable[[], bool], progress: Callable[[int, int], None], stall_s: float | None
    ) -> FinalReply:
        """Called with the Condition held; it is released while waiting."""
        limit_s, interrupted = stall_s, False
        since_s = self._clock.monotonic()
        while True:
            while self._replies:
                reply = self._replies.popleft()
                if not isinstance(reply, Progressed):
                    return reply
                since_s = self._clock.monotonic()
                progress(reply.done, reply.total)
            if self._status is not None:
                raise TrainerDiedError(status=self._status)
            if not interrupted and not keep_going():
                interrupted, limit_s, since_s = True, INTERRUPT_S, self._clock.monotonic()
                self._write(Interrupt())
            left_s = None if limit_s is None else since_s + limit_s - self._clock.monotonic()
            if left_s is not None and left_s <= 0:
                raise TrainerStalledError(seconds=limit_s)
            self._clock.wait(self._mailbox.changed, left_s)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Thread: the child's lines become replies; the end of its output, its status."""
        assert process.stdout is not None  # noqa: S101 - we asked for a pipe
        with process.stdout:
            for line in process.stdout:
                try:
                    reply = REPLY.validate_json(line)
                except ValidationError:
                    logger.warning("the training child wrote a line that is no reply", num_bytes=len(line))
                    continue
                with self._mailbox.changed:
                    self._replies.append(reply)
                    self._mailbox.changed.notify_all()
        status = process.wait()
        with self._mailbox.changed:
            if self._process is process:
                self._status = status
            self._mailbox.changed.notify_all()
