"""One file on one SFTP channel: a bounded number of requests in flight, and every single answer looked at.

                       ┌─ requests ── at most UPLOAD_IN_FLIGHT / DOWNLOAD_IN_FLIGHT bytes unanswered ─┐
    local file ──────> │                                                                             │ <──── hub
                       └─ answers ─── status of each WRITE, data of each READ, status of CLOSE ──────┘

Paramiko's own file object loses the errors of the last writes and of CLOSE, and its read-ahead can fetch a file twice;
so only its channel is used here, with the six requests of SFTP version 3 that a transfer needs.

A transfer may take as long as it must, but not stand still: `stall_s` without a byte ends it. The wait is cut into
ticks, so that a cancelled transfer ends within a second also while the hub is silent.
"""

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import BinaryIO, TypeVar, cast

from paramiko import Channel
from paramiko.ssh_exception import SSHException

from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.failures import Step, remote_errors, translated

KIB = 1 << 10
# SFTPGo loses up to eight unwritten requests when it is killed: 32 KiB each stay far within the 1 MiB of the resume.
WRITE_BLOCK = 32 * KIB
UPLOAD_IN_FLIGHT = 32 * WRITE_BLOCK  # more fills the 2 MiB window, and OpenSSH's server becomes slow
SEND_BATCH = 8 * WRITE_BLOCK  # requests that leave together: fewer, larger packets where the hub takes them
READ_BLOCK = 255 * KIB  # what we ask for; a server that answers less is asked for less from then on
DOWNLOAD_IN_FLIGHT = 2 << 20  # one channel window: more only waits in memory
MAX_ANSWER = READ_BLOCK + 4 * KIB  # a hub cannot make us keep more than this of one answer
RECV_BYTES = 1 << 20
TICK_S = 1.0

Result = TypeVar("Result", bytes, int)


class _Packet(IntEnum):
    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    FSTAT = 8
    STATUS = 101
    HANDLE = 102
    DATA = 103
    ATTRS = 105


class OpenMode(IntEnum):
    """SFTP's flags READ 1, WRITE 2, CREAT 8, TRUNC 16."""

    READ = 1
    RESUME = 1 | 2  # an existing file, anywhere in it; APPEND would forbid going back
    CREATE = 2 | 8 | 16


_EOF = 1
_STATUS_ERRNOS = {2: errno.ENOENT, 3: errno.EACCES}
_ATTR_SIZE = 1


@dataclass(frozen=True)
class Patience:
    """How long nothing may happen, and whether somebody wants the transfer to end."""

    stall_s: float
    cancelled: Callable[[], bool]

    @property
    def tick_s(self) -> float:
        return min(TICK_S, self.stall_s)

    @property
    def num_ticks(self) -> int:
        return max(1, round(self.stall_s / self.tick_s))

    def check(self) -> None:
        if self.cancelled():
            raise Interrupted


@dataclass(frozen=True)
class _Answer:
    kind: int
    request: int
    body: bytes


class RemoteFile:
    """A file of the hub, open on a channel of its own. Raises `ExchangeError`, and `Interrupted` when cancelled."""

    def __init__(self, channel: Channel, patience: Patience, doing: str) -> None:
        self._channel = channel
        self._patience = patience
        self._doing = doing
        self._received = bytearray()
        self._last_request = 0
        self._handle = b""
        channel.settimeout(patience.tick_s)

    def open(self, path: str, mode: OpenMode) -> None:
        self._send(_framed(struct.pack(">BI", _Packet.INIT, 3)))
        if self._one_answer().kind != _Packet.VERSION:
            raise self._out_of_step()
        name = path.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">II", mode, 0)
        answer = self._ask(_Packet.OPEN, body, Step.OPEN)
        if answer.kind != _Packet.HANDLE:
            raise self._out_of_step()
        self._handle = answer.body  # kept as it came: length, then bytes

    def size(self) -> int:
        answer = self._ask(_Packet.FSTAT, self._handle)
        if answer.kind != _Packet.ATTRS or len(answer.body) < 12 or not answer.body[3] & _ATTR_SIZE:
            raise self._out_of_step()
        return int.from_bytes(answer.body[4:12], "big")

    def close(self) -> None:
        """Send CLOSE and look at its status: a full disk or quota is told nowhere else."""
        self._ask(_Packet.CLOSE, self._handle)

    # --- upload ------------------------------------------------------------------------------------------------------

    def write(self, source: BinaryIO, span: tuple[int, int], moved: Callable[[int], None]) -> None:
        """Write `source` from where it stands over bytes `span`; `moved` hears how many were acknowledged in all."""
        position, end = span
        acknowledged = position
        waiting: dict[int, int] = {}  # request -> bytes
        in_flight = 0
        while position < end or waiting:
            self._patience.check()
            if position < end and in_flight + SEND_BATCH <= UPLOAD_IN_FLIGHT:
                batch: list[bytes] = []
                for size in _blocks(position, min(end, position + SEND_BATCH), WRITE_BLOCK):
                    data = source.read(size)
                    if len(data) != size:
                        raise ExchangeError(kind=FailureKind.MISMATCH, doing=self._doing)
                    head = self._head(_Packet.WRITE, struct.pack(">QI", position, size), size)
                    waiting[self._last_request] = size
                    batch += (head, data)
                    position += size
                    in_flight += size
                self._send(b"".join(batch))
                continue
            for answer in self._answers():
                in_flight -= self._written(answer, waiting)
            acknowledged = position - in_flight
            moved(acknowledged)

    def _written(self, answer: _Answer, waiting: dict[int, int]) -> int:
        size = waiting.pop(answer.request, None)
        if size is None or answer.kind != _Packet.STATUS:
            raise self._out_of_step()
        self._check_status(answer)
        return size

    # --- download ----------------------------------------------------------------------------------------------------

    def read(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes from `start` to `end` in order. Short answers are asked for again, longer ones refused."""
        reads = _Reads(start, end)
        while reads.position < end:
            self._patience.check()
            if requests := reads.next_requests():
                self._send(b"".join(self._read_request(reads, place) for place in requests))
            for answer in self._answers():
                if answer.kind == _Packet.STATUS:
                    self._check_status(answer)
                if answer.kind != _Packet.DATA or not reads.take(answer):
                    raise self._out_of_step()
            yield from reads.in_order()

    def _read_request(self, reads: "_Reads", place: tuple[int, int]) -> bytes:
        request = self._head(_Packet.READ, struct.pack(">QI", *place), 0)
        reads.waiting[self._last_request] = place
        return request

    # --- requests and answers ----------------------------------------------------------------------------------------

    def _head(self, kind: _Packet, arguments: bytes, data_bytes: int) -> bytes:
        self._last_request += 1
        body = struct.pack(">BI", kind, self._last_request) + self._handle + arguments
        return struct.pack(">I", len(body) + data_bytes) + body

    def _ask(self, kind: _Packet, body: bytes, step: Step = Step.OTHER) -> _Answer:
        self._last_request += 1
        self._send(_framed(struct.pack(">BI", kind, self._last_request) + body))
        answer = self._one_answer()
        if answer.request != self._last_request:
            raise self._out_of_step()
        if answer.kind == _Packet.STATUS:
            self._check_status(answer, step)
        return answer

    def _one_answer(self) -> _Answer:
        answers = list(self._answers())
        if len(answers) != 1:
            raise self._out_of_step()
        return answers[0]

    def _answers(self) -> Iterator[_Answer]:
        """Wait for at least one whole answer, then hand out all that have come."""
        while not (answers := self._complete()):
            self._received += self._patiently(partial(self._channel.recv, RECV_BYTES))
        yield from answers

    def _complete(self) -> list[_Answer]:
        found, position = [], 0
        buffer = self._received
        while len(buffer) - position >= 9:
            size, kind, request = struct.unpack_from(">IBI", buffer, position)
            if not 5 <= size <= MAX_ANSWER:
                raise self._out_of_step()
            if len(buffer) - position < 4 + size:
                break
            found.append(_Answer(kind, request, bytes(memoryview(buffer)[position + 9 : position + 4 + size])))
            position += 4 + size
        del buffer[:position]
        return found

    def _send(self, message: bytes) -> None:
        rest = cast(bytes, memoryview(message))  # a view: what is left after a partial send is not copied
        while rest:
            sent = self._patiently(partial(self._channel.send, rest))
            rest = rest[sent:]

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """`call`, repeated while it times out, for as long as the stall rule allows. Empty means the line is gone."""
        with remote_errors(self._doing):
            for _ in range(self._patience.num_ticks):
                try:
                    result = call()
                except TimeoutError:
                    self._patience.check()
                    continue
                if not result:
                    raise EOFError("the channel is closed")
                return result
            raise TimeoutError(f"no byte for {self._patience.stall_s} s")

    def _check_status(self, answer: _Answer, step: Step = Step.OTHER) -> None:
        """Raise for any status but OK. The text is read for the table of failures, and goes no further."""
        code = int.from_bytes(answer.body[:4], "big")
        if code == 0:
            return
        if code == _EOF:
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=self._doing)  # shorter than it should be
        length = int.from_bytes(answer.body[4:8], "big")
        text = answer.body[8 : 8 + length].decode("utf-8", "replace")
        number = _STATUS_ERRNOS.get(code)
        raise translated(OSError(number, text) if number else OSError(text), self._doing, step)

    def _out_of_step(self) -> ExchangeError:
        return translated(SSHException("unexpected answer"), self._doing)


class _Reads:
    """Which parts of a file were asked for, which have come, and what is to be asked next."""

    def __init__(self, start: int, end: int) -> None:
        self.position = start  # everything before has been handed out
        self.waiting: dict[int, tuple[int, int]] = {}  # request -> (offset, size)
        self._end = end
        self._asked = start
        self._again: list[tuple[int, int]] = []
        self._early: dict[int, memoryview] = {}  # came before its turn
        self._block = READ_BLOCK

    def next_requests(self) -> list[tuple[int, int]]:
        """Enough to have `DOWNLOAD_IN_FLIGHT` bytes between what was handed out and what was asked for."""
        requests, self._again = self._again, []
        limit = min(self._end, self.position + DOWNLOAD_IN_FLIGHT)
        if limit - self._asked >= READ_BLOCK or limit == self._end:
            for size in _blocks(self._asked, limit, self._block):
                requests.append((self._asked, size))
                self._asked += size
        return requests

    def take(self, answer: _Answer) -> bool:
        """False for an answer nobody asked for, an empty one, or one longer than asked."""
        offset, size = self.waiting.pop(answer.request, (0, 0))
        got = len(answer.body) - 4
        if not 0 < got <= size or got != int.from_bytes(answer.body[:4], "big"):
            return False
        if got < size:
            self._block = min(self._block, got)
            rest = offset + got
            for piece in _blocks(rest, offset + size, self._block):
                self._again.append((rest, piece))
                rest += piece
        self._early[offset] = memoryview(answer.body)[4:]
        return True

    def in_order(self) -> Iterator[memoryview]:
        while (data := self._early.pop(self.position, None)) is not None:
            self.position += len(data)
            yield data


def _blocks(start: int, end: int, size: int) -> Iterator[int]:
    """Sizes of the blocks that cover `start` to `end`."""
    for position in range(start, end, size):
        yield min(size, end - position)


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body
