"""The transfer loop against a scripted server: answers that are short, out of order, wrong, or do not come."""

import io
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from paramiko import Channel

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.pace import Pace
from node_agent.exchange.pipeline import (
    DOWNLOAD_IN_FLIGHT,
    MAX_ANSWER,
    UPLOAD_IN_FLIGHT,
    WRITE_BLOCK,
    OpenMode,
    Patience,
    RemoteFile,
)
from node_agent.exchange.reads import READ_BLOCK
from tests.node_agent.exchange.helpers import MIB, failure_of

KIB = 1024
INIT, OPEN, CLOSE, READ, WRITE, FSTAT = 1, 3, 4, 5, 6, 8
LAZY = 10**6  # answer only when asked: as much is in flight as the loop allows
Answer = bytes | None


def status(request: int, code: int = 0, text: bytes = b"") -> bytes:
    return struct.pack(">BIII", 101, request, code, len(text)) + text + bytes(4)


def data(request: int, block: bytes) -> bytes:
    return struct.pack(">BII", 103, request, len(block)) + block


@dataclass
class ScriptedChannel:
    """Speaks SFTP from memory. `twist` may change, drop or keep back any answer."""

    content: bytearray = field(default_factory=bytearray)
    twist: Callable[[int, int, bytes], Answer] = lambda kind, request, answer: answer
    max_read: int = 1 << 20
    recv_bytes: int = 1 << 20  # how much one recv gives: answers are cut anywhere
    send_bytes: int = 1 << 20
    window: int = 1  # so many answers are kept and given in reverse
    requests: list[tuple[int, int, int]] = field(default_factory=list)  # kind, offset, size
    most_in_flight: int = 0
    num_closes: int = 0
    _unanswered: dict[int, int] = field(default_factory=dict)  # request -> bytes
    _in: bytearray = field(default_factory=bytearray)
    _kept: deque[bytes] = field(default_factory=deque)
    _out: bytearray = field(default_factory=bytearray)

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def send(self, message: Any) -> int:
        piece = bytes(message[: self.send_bytes])
        self._in += piece
        while len(self._in) >= 4 and len(self._in) >= 4 + (size := int.from_bytes(self._in[:4], "big")):
            packet, self._in = bytes(self._in[4 : 4 + size]), self._in[4 + size :]
            self._serve(packet)
        return len(piece)

    def recv(self, size: int) -> bytes:
        if not self._out and self._kept:
            self._release()
        if not self._out:
            raise TimeoutError
        size = min(size, self.recv_bytes)
        piece, self._out = bytes(self._out[:size]), self._out[size:]
        return piece

    def _serve(self, packet: bytes) -> None:
        kind, request = struct.unpack_from(">BI", packet)
        answer = self.twist(kind, request, self._answer(kind, request, packet))
        if kind in (READ, WRITE):
            self._unanswered[request] = self.requests[-1][2]
            self.most_in_flight = max(self.most_in_flight, sum(self._unanswered.values()))
        if answer is not None:
            self._kept.append(answer)
        if len(self._kept) >= self.window:
            self._release()

    def _release(self) -> None:
        while self._kept:
            answer = self._kept.pop()
            self._unanswered.pop(int.from_bytes(answer[1:5], "big"), None)
            self._out += struct.pack(">I", len(answer)) + answer

    def _answer(self, kind: int, request: int, packet: bytes) -> bytes:
        if kind == INIT:
            return struct.pack(">BI", 2, 3)
        if kind == OPEN:
            return struct.pack(">BII", 102, request, 4) + b"hndl"
        if kind == FSTAT:
            return struct.pack(">BIIQ", 105, request, 1, len(self.content))
        if kind == READ:
            offset, size = struct.unpack_from(">QI", packet, 13)
            self.requests.append((kind, offset, size))
            block = bytes(self.content[offset : offset + min(size, self.max_read)])
            return data(request, block) if block else status(request, 1)
        if kind == WRITE:
            offset, size = struct.unpack_from(">QI", packet, 13)
            self.requests.append((kind, offset, size))
            self.content[offset : offset + size] = packet[25 : 25 + size]
        self.num_closes += kind == CLOSE
        return status(request)


def remote(
    channel: ScriptedChannel,
    mode: OpenMode,
    cancelled: Callable[[], bool] = lambda: False,
    pace: Pace | None = None,
) -> RemoteFile:
    file = RemoteFile(cast(Channel, channel), Patience(3.0, cancelled), pace or Pace(ManualClock()), "Moving")
    file.open("/nodes/a/x", mode)
    return file


def content(num_bytes: int) -> bytes:
    return bytes((index * 7 + index // 251) % 256 for index in range(num_bytes))


BIG = content(3 * MIB + 5)


@pytest.mark.parametrize("window", [1, 5, LAZY])
@pytest.mark.parametrize("max_read", [1 << 20, READ_BLOCK - 1, 32 * KIB, 1000 * 33])
@pytest.mark.parametrize("recv_bytes", [1 << 20, 10_007])
def test_a_download_is_right_however_the_answers_come(window: int, max_read: int, recv_bytes: int) -> None:
    channel = ScriptedChannel(bytearray(BIG), window=window, max_read=max_read, recv_bytes=recv_bytes)
    file = remote(channel, OpenMode.READ)
    assert file.size() == len(BIG)
    assert b"".join(file.read(7, len(BIG))) == BIG[7:]
    assert channel.most_in_flight <= DOWNLOAD_IN_FLIGHT
    assert window != LAZY or channel.most_in_flight >= DOWNLOAD_IN_FLIGHT // 2
    asked = sum(size for _, _, size in channel.requests)
    assert asked < len(BIG) + DOWNLOAD_IN_FLIGHT  # short answers cost one window, not a request each


def test_a_server_that_answers_short_is_asked_for_less() -> None:
    channel = ScriptedChannel(bytearray(BIG), max_read=32 * KIB)
    assert b"".join(remote(channel, OpenMode.READ).read(0, len(BIG))) == BIG
    assert max(size for _, _, size in channel.requests[:8]) == READ_BLOCK
    assert max(size for _, _, size in channel.requests[20:]) <= 32 * KIB


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda request, answer: data(request, b"x" * (len(answer) - 8)), FailureKind.CONNECTION),  # longer than asked
        (lambda request, answer: data(request, b""), FailureKind.CONNECTION),
        (lambda request, answer: data(request + 1000, answer[9:]), FailureKind.CONNECTION),  # nobody asked
        (lambda request, answer: struct.pack(">BII", 103, request, 5) + answer[9:], FailureKind.CONNECTION),
        (lambda request, answer: status(request), FailureKind.CONNECTION),  # "OK" is no data
        (lambda request, answer: data(request, b"x" * (300 * KIB)), FailureKind.CONNECTION),  # beyond any answer
        (lambda request, answer: status(request, 1), FailureKind.MISMATCH),  # shorter than it said
        (lambda request, answer: status(request, 2, b"no such file"), FailureKind.NOT_YET_THERE),
        (lambda request, answer: status(request, 3, b"denied"), FailureKind.DENIED),
        (lambda request, answer: status(request, 4, b"failure"), FailureKind.SERVER_ERROR),
    ],
)
def test_a_download_believes_no_wrong_answer(spoil: Callable[[int, bytes], bytes], kind: FailureKind) -> None:
    seen = 0

    def twist(what: int, request: int, answer: bytes) -> bytes:
        nonlocal seen
        seen += what == READ
        return spoil(request, answer) if what == READ and seen == 5 else answer

    file = remote(ScriptedChannel(bytearray(BIG), twist=twist), OpenMode.READ)
    with pytest.raises(ExchangeError) as caught:
        b"".join(file.read(0, len(BIG)))
    assert caught.value.kind is kind


@pytest.mark.parametrize("size", [0, 4, MAX_ANSWER + 1, 0xFFFFFFFF])
def test_an_answer_of_impossible_size_is_not_waited_for(size: int) -> None:
    def twist(what: int, request: int, answer: bytes) -> Answer:
        if what != READ:
            return answer
        channel._out += struct.pack(">IBI", size, 103, request)
        return None

    channel = ScriptedChannel(bytearray(BIG), twist=twist)
    file = remote(channel, OpenMode.READ)
    assert failure_of(lambda: b"".join(file.read(0, len(BIG)))) is FailureKind.CONNECTION


@pytest.mark.parametrize("send_bytes", [1 << 20, 32704])
@pytest.mark.parametrize("window", [1, 3, LAZY])
def test_an_upload_is_right_and_bounded(send_bytes: int, window: int) -> None:
    channel = ScriptedChannel(bytearray(BIG[:100]), send_bytes=send_bytes, window=window)
    file, moves = remote(channel, OpenMode.RESUME), list[int]()
    source = io.BytesIO(BIG)
    source.seek(50)
    file.write(source, (50, len(BIG)), moves.append)
    file.close()
    assert bytes(channel.content) == BIG
    assert channel.num_closes == 1
    assert moves == sorted(moves)
    assert moves[-1] == len(BIG)
    assert channel.most_in_flight <= UPLOAD_IN_FLIGHT
    assert window != LAZY or channel.most_in_flight == UPLOAD_IN_FLIGHT
    assert max(size for _, _, size in channel.requests) == WRITE_BLOCK


@pytest.mark.parametrize("window", [1, 3, LAZY])
@pytest.mark.parametrize("which", [1, 2, 40, -1])
def test_no_failed_write_is_lost_not_even_the_last(which: int, window: int) -> None:
    """What is whole ends there, also where later writes have found room and are answered first."""
    num_writes = -(-len(BIG) // WRITE_BLOCK)
    seen = 0

    def twist(what: int, request: int, answer: bytes) -> bytes:
        nonlocal seen
        seen += what == WRITE
        failing = what == WRITE and seen == (which if which > 0 else num_writes)
        return status(request, 4, b"no space left on device") if failing else answer

    file = remote(ScriptedChannel(twist=twist, window=window), OpenMode.CREATE)
    with pytest.raises(ExchangeError) as caught:
        file.write(io.BytesIO(BIG), (0, len(BIG)), lambda done: None)
    assert caught.value.kind is FailureKind.SPACE
    assert file.num_whole == WRITE_BLOCK * ((which if which > 0 else num_writes) - 1)


def test_a_failed_close_is_told() -> None:
    def twist(what: int, request: int, answer: bytes) -> bytes:
        return status(request, 4, b"denying write due to space limit") if what == CLOSE else answer

    file = remote(ScriptedChannel(twist=twist), OpenMode.CREATE)
    file.write(io.BytesIO(BIG), (0, len(BIG)), lambda done: None)
    with pytest.raises(ExchangeError) as caught:
        file.close()
    assert caught.value.kind is FailureKind.SPACE


@pytest.mark.parametrize("what", [INIT, OPEN, FSTAT, READ])
def test_a_silent_server_ends_the_wait(what: int) -> None:
    """The scripted channel times out at once: three ticks of a second are three calls."""
    channel = ScriptedChannel(bytearray(BIG), twist=lambda kind, request, answer: None if kind == what else answer)

    def download() -> None:
        file = remote(channel, OpenMode.READ)
        b"".join(file.read(0, file.size()))

    assert failure_of(download) is FailureKind.TIMEOUT
    assert channel.timeout == 1.0


def test_a_cancelled_transfer_does_not_wait_for_a_silent_server() -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    channel = ScriptedChannel(bytearray(BIG), twist=lambda kind, request, answer: None if kind == READ else answer)
    file = remote(channel, OpenMode.READ, cancelled)
    with pytest.raises(Interrupted):
        b"".join(file.read(0, len(BIG)))


def test_a_source_that_shrinks_is_not_padded() -> None:
    file = remote(ScriptedChannel(), OpenMode.CREATE)
    with pytest.raises(ExchangeError) as caught:
        file.write(io.BytesIO(BIG[:-1]), (0, len(BIG)), lambda done: None)
    assert caught.value.kind is FailureKind.MISMATCH
