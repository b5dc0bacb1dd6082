"""The SFTP session by itself: pieces of packets, packets that are none, peers that do not read."""

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded_hub.files import HubFiles
from embedded_hub.sftp import ANSWER_BATCH, MAX_BLOCK, MAX_HANDLES, MAX_PACKET, SftpSession
from embedded_hub.wire import BadMessageError, Status
from tests.embedded_hub.helpers import names

SHA = "ab" * 32
DESCRIPTORS = Path("/proc/self/fd")
PART, FINAL = f"/nodes/me/{SHA}.part".encode(), f"/nodes/me/{SHA}.safetensors".encode()
INIT, OPEN, CLOSE, READ, WRITE, FSTAT, REALPATH, EXTENDED = 1, 3, 4, 5, 6, 8, 16, 200
CREATE = 2 | 8 | 16


def packet(kind: int, request: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, request) + body


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


class Peer:
    """Collects what the session sends; may stop reading."""

    def __init__(self, folder: Path) -> None:
        self.files = HubFiles(folder)
        self.files.make_folder("me")
        self.folder = folder / "nodes" / "me"
        self.received = b""
        self.alive = True
        self.pause_beyond = 1 << 40
        self.session = SftpSession(self.files, "me", self._take, lambda: self.alive)

    def _take(self, answers: bytes) -> None:
        self.received += answers
        if len(self.received) > self.pause_beyond:
            self.session.pause()

    def answers(self) -> list[tuple[int, int, bytes]]:
        """(kind, request, rest) of everything received since the last call."""
        found, rest = [], self.received
        while rest:
            size = int.from_bytes(rest[:4], "big")
            found.append((rest[4], int.from_bytes(rest[5:9], "big"), rest[9 : 4 + size]))
            rest = rest[4 + size :]
        self.received = b""
        return found

    def ask(self, kind: int, body: bytes) -> tuple[int, int, bytes]:
        self.session.received(packet(kind, 7, body))
        (answer,) = self.answers()
        return answer

    def open(self, path: bytes, flags: int) -> bytes:
        kind, _, body = self.ask(OPEN, text(path) + struct.pack(">II", flags, 0))
        assert kind == 102
        return body


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def code(answer: tuple[int, int, bytes]) -> int:
    assert answer[0] == 101
    return int.from_bytes(answer[2][:4], "big")


def test_packets_may_come_in_any_pieces(peer: Peer) -> None:
    handle = peer.open(PART, CREATE)
    stream = b"".join(packet(WRITE, i, handle + struct.pack(">Q", 3 * i) + text(b"abc")) for i in range(50))
    for start in range(0, len(stream), 7):
        peer.session.received(stream[start : start + 7])
    assert [(kind, request) for kind, request, _ in peer.answers()] == [(101, i) for i in range(50)]
    assert (peer.folder / f"{SHA}.part").read_bytes() == b"abc" * 50


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_PACKET + 1),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 0),
        b"GET / HTTP/1.1\r\n\r\n",
        packet(OPEN, 1, b"\xff\xff\xff\xffpath"),
        packet(READ, 1, b"\0\0"),
    ],
)
def test_what_is_not_sftp_ends_the_channel(peer: Peer, data: bytes) -> None:
    with pytest.raises(BadMessageError):
        peer.session.received(data)


def test_a_write_that_promises_more_than_it_brings_ends_the_channel(peer: Peer) -> None:
    handle = peer.open(PART, CREATE)
    with pytest.raises(BadMessageError):
        peer.session.received(packet(WRITE, 1, handle + bytes(8) + b"\0\0\xff\xffshort"))
    assert (peer.folder / f"{SHA}.part").read_bytes() == b""


def test_unknown_handles_and_requests_are_answered(peer: Peer) -> None:
    for kind, body in ((READ, bytes(12)), (WRITE, bytes(8) + text(b"x")), (FSTAT, b""), (CLOSE, b"")):
        assert code(peer.ask(kind, text(b"nope") + body)) == Status.FAILURE
    assert code(peer.ask(99, b"")) == Status.UNSUPPORTED
    assert code(peer.ask(EXTENDED, text(b"fsync@openssh.com") + text(b"x"))) == Status.UNSUPPORTED
    assert code(peer.ask(EXTENDED, text(b"hardlink@openssh.com") + text(PART) + text(FINAL))) == Status.UNSUPPORTED


def test_a_handle_is_closed_once(peer: Peer) -> None:
    handle = peer.open(PART, CREATE)
    assert code(peer.ask(CLOSE, handle)) == Status.OK
    assert code(peer.ask(CLOSE, handle)) == Status.FAILURE


def test_open_files_are_bounded_and_end_with_the_channel(peer: Peer) -> None:
    before = len(names(DESCRIPTORS))
    for _ in range(MAX_HANDLES):
        peer.open(PART, CREATE)
    answer = peer.ask(OPEN, text(PART) + struct.pack(">II", CREATE, 0))
    assert code(answer) == Status.FAILURE
    assert len(names(DESCRIPTORS)) == before + MAX_HANDLES
    peer.session.close()
    assert len(names(DESCRIPTORS)) == before


def test_one_answer_is_bounded_whatever_is_asked(peer: Peer) -> None:
    (peer.folder / f"{SHA}.safetensors").write_bytes(bytes(3 * MAX_BLOCK))
    handle = peer.open(FINAL, 1)
    kind, _, body = peer.ask(READ, handle + struct.pack(">QI", 0, 0xFFFFFFFF))
    assert (kind, len(body)) == (103, 4 + MAX_BLOCK)
    assert code(peer.ask(READ, handle + struct.pack(">QI", 3 * MAX_BLOCK, 5))) == Status.EOF
    assert code(peer.ask(READ, handle + struct.pack(">QI", 0xFFFFFFFFFFFFFFFF, 5))) == Status.FAILURE


def test_a_write_far_away_is_refused_by_the_system(peer: Peer) -> None:
    handle = peer.open(PART, CREATE)
    assert code(peer.ask(WRITE, handle + struct.pack(">Q", 0xFFFFFFFFFFFFFFFF) + text(b"x"))) == Status.FAILURE


def test_nothing_piles_up_for_a_peer_that_does_not_read(peer: Peer) -> None:
    """A few kilobytes of requests ask for a gigabyte: only so much is made as the channel takes."""
    (peer.folder / f"{SHA}.safetensors").write_bytes(bytes(MAX_BLOCK))
    handle = peer.open(FINAL, 1)
    peer.pause_beyond = 0
    num_requests = 4096
    peer.session.received(
        b"".join(packet(READ, i, handle + struct.pack(">QI", 0, MAX_BLOCK)) for i in range(num_requests))
    )
    num_answers = 0
    while peer.session.is_paused:
        assert len(peer.received) < 2 * (ANSWER_BATCH + MAX_BLOCK)
        num_answers += len(peer.answers())
        peer.session.resume()
    assert num_answers == num_requests


def test_many_small_answers_leave_together(peer: Peer) -> None:
    handle, sent = peer.open(PART, CREATE), list[int]()
    take = peer.session._send
    peer.session._send = lambda answers: (sent.append(len(answers)), take(answers))[1]
    peer.session.received(b"".join(packet(WRITE, i, handle + bytes(8) + text(b"x")) for i in range(100)))
    assert len(sent) == 1
    assert len(peer.answers()) == 100


def commit(peer: Peer, during: Callable[[], None] = lambda: None) -> None:
    async def ask() -> None:
        body = text(b"posix-rename@openssh.com") + text(PART) + text(FINAL)
        peer.session.received(packet(EXTENDED, 9, body))
        during()
        await asyncio.gather(*peer.session._tasks)

    asyncio.run(ask())


def test_a_commit_is_on_the_disk_before_it_is_answered(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append(f"fsync {(DESCRIPTORS / str(descriptor)).readlink().name}")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return real_replace(self, target)

    handle = peer.open(PART, CREATE)
    peer.ask(WRITE, handle + bytes(8) + text(b"abc"))
    peer.ask(CLOSE, handle)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    take = peer.session._send
    peer.session._send = lambda answers: (done.append("answer"), take(answers))[1]
    commit(peer)
    assert done == [f"fsync {SHA}.part", "rename", "fsync me", "answer"]
    assert [code(answer) for answer in peer.answers()] == [Status.OK]


def test_a_node_that_is_cut_in_mid_commit_commits_nothing(peer: Peer) -> None:
    (peer.folder / f"{SHA}.part").write_bytes(b"abc")

    def cut() -> None:
        peer.alive = False

    commit(peer, cut)
    assert names(peer.folder) == [f"{SHA}.part"]
    assert peer.received == b""
