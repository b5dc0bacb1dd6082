"""One file on one SFTP channel: a bounded number of requests in flight, and every single answer looked at.

                       ┌─ requests ── bytes unanswered: by the line's round trip, within bounds ─┐
    local file ──────> │                                                                         │ <──── hub
                       └─ answers ─── status of each WRITE, data of each READ, status of CLOSE ──┘

Paramiko's own file object loses the errors of the last writes and of CLOSE, and its read-ahead can fetch a file twice;
so only its channel is used here, with the six requests of SFTP version 3 that a transfer needs.

A transfer may take as long as it must, but not stand still: `stall_s` without a byte ends it. The wait is cut into
ticks, so that a cancelled transfer ends within a second also while the hub is silent. Waiting for the site's own limit
(`pace`) is no standing still.
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
from node_agent.exchange.pace import TICK_S, Pace
from node_agent.exchange.reads import READ_BLOCK, Answer, Reads, blocks

KIB = 1 << 10
# With its head a WRITE fills two packets of 32 KiB, the largest that SFTPGo and OpenSSH take, and no third; each costs
# the hub one answer and us one packet to read. SFTPGo loses up to eight unwritten requests when it is killed: half of
# the 1 MiB that a resume may send again.
WRITE_BLOCK = 64 * KIB - 256
SEND_BATCH = 2 * WRITE_BLOCK  # requests that leave together: fewer, larger packets where the hub takes them
MAX_ANSWER = READ_BLOCK + 4 * KIB  # a hub cannot make us keep more than this of one answer
RECV_BYTES = 4 << 20

# Bytes in flight. Nearby, little is fast enough: what is under way when a line breaks is sent again, a full window of
# the hub's 2 MiB makes OpenSSH's server slow, and a download stays within the processor's caches. On a long line speed
# is bytes in flight by round trip: beyond the most, memory is spent for lines that no hospital has, and of an upload it
# would only wait before the hub's window.
UPLOAD_IN_FLIGHT = 20 * WRITE_BLOCK
MOST_UPLOAD_IN_FLIGHT = 64 * WRITE_BLOCK
DOWNLOAD_IN_FLIGHT = 2 << 20
MOST_DOWNLOAD_IN_FLIGHT = 16 << 20
FULL_LINE_BYTES_PER_S = 320_000_000  # the speed that the bytes in flight should not be what prevents

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
    CREATE = 2 | 8  # what another session has written meanwhile stays
    REPLACE = 2 | 8 | 16


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


class RemoteFile:
    """A file of the hub, open on a channel of its own. Raises `ExchangeError`, and `Interrupted` when cancelled."""

    def __init__(self, channel: Channel, patience: Patience, pace: Pace, doing: str) -> None:
        self._channel = channel
        self._patience = patience
        self._pace = pace
        self._doing = doing
        self._round_trip_s = float("inf")  # the shortest that a question of this file took
        self._received = bytearray()
        self._last_request = 0
        self._handle = b""
        self._asked_at_s = 0.0
        self.num_whole = 0  # of an upload that failed: bytes before the first that the hub did not take
        channel.settimeout(patience.tick_s)

    def open(self, path: str, mode: OpenMode) -> None:
        self._asked_at_s = self._pace.clock.monotonic()
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
        """Write `source` from where it stands over bytes `span`; `moved` hears how many were acknowledged in all.

        What the hub refuses is raised when all that is under way has been answered: then `num_whole` is known, and
        nothing is written afterwards.
        """
        position, end = span
        failure: ExchangeError | None = None
        waiting: dict[int, tuple[int, int]] = {}  # request -> where, how many bytes
        in_flight = 0
        most = self._pace.up.at_once(self._to_fill_the_line(UPLOAD_IN_FLIGHT, MOST_UPLOAD_IN_FLIGHT), WRITE_BLOCK)
        while (position < end and failure is None) or waiting:
            self._patience.check()
            num_bytes = min(end - position, SEND_BATCH, most)
            if failure is None and position < end and in_flight + num_bytes <= most:
                self._pace.up.take(num_bytes, self._patience.check)
                batch: list[bytes] = []
                for size in blocks(position, position + num_bytes, WRITE_BLOCK):
                    data = source.read(size)
                    if len(data) != size:
                        raise ExchangeError(kind=FailureKind.MISMATCH, doing=self._doing)
                    head = self._head(_Packet.WRITE, struct.pack(">QI", position, size), size)
                    waiting[self._last_request] = position, size
                    batch += (head, data)
                    position += size
                    in_flight += size
                self._send(b"".join(batch))
                continue
            for answer in self._answers():
                if answer.request not in waiting or answer.kind != _Packet.STATUS:
                    raise self._out_of_step()
                where, size = waiting.pop(answer.request)
                in_flight -= size
                try:
                    self._check_status(answer)
                except ExchangeError as error:
                    self.num_whole = where if failure is None else min(where, self.num_whole)
                    failure = failure or error
            if failure is None:
                moved(position - in_flight)
        if failure is not None:
            raise failure

    # --- download ----------------------------------------------------------------------------------------------------

    def read(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes from `start` to `end` in order. Short answers are asked for again, longer ones refused."""
        full = self._to_fill_the_line(DOWNLOAD_IN_FLIGHT, MOST_DOWNLOAD_IN_FLIGHT)
        reads = Reads(start, end, self._pace.down.at_once(full, 64 * KIB))
        while reads.position < end:
            self._patience.check()
            before = reads.asked
            if requests := reads.next_requests():
                self._pace.down.take(reads.asked - before, self._patience.check)
                self._send(b"".join(self._read_request(reads, place) for place in requests))
            for answer in self._answers():
                if answer.kind == _Packet.STATUS:
                    self._check_status(answer)
                if answer.kind != _Packet.DATA or not reads.take(answer):
                    raise self._out_of_step()
            yield from reads.in_order()

    def _read_request(self, reads: "Reads", place: tuple[int, int]) -> bytes:
        request = self._head(_Packet.READ, struct.pack(">QI", *place), 0)
        reads.waiting[self._last_request] = place
        return request

    def _to_fill_the_line(self, least: int, most: int) -> int:
        """How many bytes in flight keep a line of this round trip busy."""
        return int(min(most, max(least, self._round_trip_s * FULL_LINE_BYTES_PER_S)))

    # --- requests and answers ----------------------------------------------------------------------------------------

    def _head(self, kind: _Packet, arguments: bytes, data_bytes: int) -> bytes:
        self._last_request += 1
        body = struct.pack(">BI", kind, self._last_request) + self._handle + arguments
        return struct.pack(">I", len(body) + data_bytes) + body

    def _ask(self, kind: _Packet, body: bytes, step: Step = Step.OTHER) -> Answer:
        self._last_request += 1
        self._asked_at_s = self._pace.clock.monotonic()
        self._send(_framed(struct.pack(">BI", kind, self._last_request) + body))
        answer = self._one_answer()
        if answer.request != self._last_request:
            raise self._out_of_step()
        if answer.kind == _Packet.STATUS:
            self._check_status(answer, step)
        return answer

    def _one_answer(self) -> Answer:
        answers = list(self._answers())
        if len(answers) != 1:
            raise self._out_of_step()
        self._round_trip_s = min(self._round_trip_s, self._pace.clock.monotonic() - self._asked_at_s)
        return answers[0]

    def _answers(self) -> Iterator[Answer]:
        """Wait for at least one whole answer, then hand out all that have come."""
        while not (answers := self._complete()):
            self._received += self._patiently(partial(self._channel.recv, RECV_BYTES))
        yield from answers

    def _complete(self) -> list[Answer]:
        found, position = [], 0
        buffer = self._received
        while len(buffer) - position >= 9:
            size, kind, request = struct.unpack_from(">IBI", buffer, position)
            if not 5 <= size <= MAX_ANSWER:
                raise self._out_of_step()
            if len(buffer) - position < 4 + size:
                break
            found.append(Answer(kind, request, bytes(memoryview(buffer)[position + 9 : position + 4 + size])))
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

    def _check_status(self, answer: Answer, step: Step = Step.OTHER) -> None:
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


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body
