"""SFTP version 3 on the wire: numbers of requests, answers and statuses; reading the ones, writing the others."""

import os
import stat
import struct
from enum import IntEnum


class Request(IntEnum):
    INIT = 1
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    REALPATH = 16
    STAT = 17
    EXTENDED = 200


class Answer(IntEnum):
    VERSION = 2
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105


class Status(IntEnum):
    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    UNSUPPORTED = 8


class BadMessageError(Exception):
    """The peer does not speak SFTP; its channel is closed."""


class Reader:
    """Takes the fields of one request from its front."""

    def __init__(self, packet: memoryview) -> None:
        self._rest = packet

    def number(self, size: int = 4) -> int:
        if len(self._rest) < size:
            raise BadMessageError
        number, self._rest = int.from_bytes(self._rest[:size], "big"), self._rest[size:]
        return number

    def view(self) -> memoryview:
        size = self.number()
        if len(self._rest) < size:
            raise BadMessageError
        view, self._rest = self._rest[:size], self._rest[size:]
        return view

    def text(self) -> bytes:
        return bytes(self.view())


POSIX_RENAME = b"posix-rename@openssh.com"
VERSION = struct.pack(">BI", Answer.VERSION, 3) + b"".join(
    struct.pack(">I", len(text)) + text for text in (POSIX_RENAME, b"1")
)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def status_answer(request: int, status: Status = Status.OK, text: str = "") -> bytes:
    words = text.encode()
    return framed(struct.pack(">BIII", Answer.STATUS, request, status, len(words)) + words + b"\0\0\0\0")


def attributes(facts: os.stat_result) -> bytes:
    """SIZE, PERMISSIONS and times; no owner, which is nobody's business."""
    mode = stat.S_IFMT(facts.st_mode) | (0o755 if stat.S_ISDIR(facts.st_mode) else 0o644)
    return struct.pack(">IQIII", 1 | 4 | 8, facts.st_size, mode, int(facts.st_atime), int(facts.st_mtime))


def names_answer(request: int, names: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(name)) + name + struct.pack(">I", len(name)) + name + facts for name, facts in names
    )
    return framed(struct.pack(">BII", Answer.NAME, request, len(names)) + body)
