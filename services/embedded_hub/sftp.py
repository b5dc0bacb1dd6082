"""SFTP version 3, as much of it as the layout has a use for: what is not here cannot be misused.

    INIT  OPEN  CLOSE  READ  WRITE  STAT  LSTAT  FSTAT  OPENDIR  READDIR  REMOVE  REALPATH  posix-rename@openssh.com

No folders, links, attributes or truncation: those are answered "unsupported". Requests are served in the order they
come, many answers to one packet; that makes this several times cheaper than one task and one packet per request. While
a peer does not read, its requests wait in the channel's window, and nothing piles up here.
"""

import asyncio
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import structlog

from embedded_hub.access import resolve
from embedded_hub.files import HubFiles
from embedded_hub.wire import (
    POSIX_RENAME,
    VERSION,
    Answer,
    BadMessageError,
    Reader,
    Request,
    Status,
    attributes,
    framed,
    names_answer,
    status_answer,
)

MAX_BLOCK = 256 << 10  # bytes of one READ or WRITE
MAX_PACKET = MAX_BLOCK + 1024  # a peer cannot make us keep more than this of one request
MAX_HANDLES = 64  # a peer cannot use up the hub's open files
NAMES_PER_ANSWER = 100
ANSWER_BATCH = 256 << 10  # answers that leave together

_log = structlog.get_logger(__name__)


class _StatusError(Exception):
    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


_WRITE, _APPEND, _CREAT, _TRUNC, _EXCL = 2, 4, 8, 16, 32
_OPEN_FLAGS = {_CREAT: os.O_CREAT, _TRUNC: os.O_TRUNC, _EXCL: os.O_EXCL}


@dataclass
class _Handle:
    descriptor: int = -1  # of a file
    names: list[tuple[str, os.stat_result]] = field(default_factory=list)  # of a folder


class SftpSession:
    """One SFTP channel of one node. `send` takes whole answers; `alive` says whether the node may still act."""

    def __init__(self, files: HubFiles, node_id: str, send: Callable[[bytes], None], alive: Callable[[], bool]) -> None:
        self._files = files
        self._node_id = node_id
        self._send = send
        self._alive = alive
        self._buffer = bytearray()
        self._handles: dict[int, _Handle] = {}
        self._last_handle = 0
        self._paused = False
        self._serving = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- flow --------------------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Serve what is complete. Raises `BadMessageError`."""
        self._buffer += data
        self._serve()

    @property
    def is_paused(self) -> bool:
        return self._paused

    def pause(self) -> None:
        """The peer does not take its answers: serve nothing more for now."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._serve()

    def close(self) -> None:
        """The channel is gone: so are its open files. Parts stay for the next session."""
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            if handle.descriptor >= 0:
                os.close(handle.descriptor)

    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        try:
            while not self._paused and (answers := self._next_answers()):
                if together := b"".join(answers):
                    self._send(together)
        finally:
            self._serving = False

    def _next_answers(self) -> list[bytes]:
        """Answers to the requests at the front of the buffer, about `ANSWER_BATCH` bytes of them."""
        answers: list[bytes] = []
        position = num_bytes = 0
        with memoryview(self._buffer) as buffer:
            while num_bytes < ANSWER_BATCH and len(buffer) - position >= 4:
                size = int.from_bytes(buffer[position : position + 4], "big")
                if not 5 <= size <= MAX_PACKET:
                    raise BadMessageError
                if len(buffer) - position < 4 + size:
                    break
                with buffer[position + 4 : position + 4 + size] as packet:
                    answer = self._answer(packet)
                answers.append(answer)
                num_bytes += len(answer)
                position += 4 + size
        del self._buffer[:position]
        return answers if position else []

    def _answer(self, packet: memoryview) -> bytes:
        """Empty for requests whose answer comes later."""
        reader = Reader(packet[1:])
        request = reader.number()
        try:
            if packet[0] == Request.INIT:
                return framed(VERSION)
            serve = self._SERVE.get(packet[0])
            if serve is None:
                raise _StatusError(Status.UNSUPPORTED, "operation unsupported")
            return serve(self, request, reader)
        except (_StatusError, OSError) as error:
            return _failed(request, error)

    # --- files -------------------------------------------------------------------------------------------------------

    def _open(self, request: int, reader: Reader) -> bytes:
        path, wanted = reader.text(), reader.number()
        if len(self._handles) >= MAX_HANDLES:
            raise _StatusError(Status.FAILURE, "too many open files")
        if wanted & _APPEND:
            raise _StatusError(Status.UNSUPPORTED, "operation unsupported")
        if wanted & _WRITE:
            flags = sum(flag for bit, flag in _OPEN_FLAGS.items() if wanted & bit)
            descriptor = self._files.open_for_writing(self._node_id, path, flags)
        else:
            descriptor = self._files.open_for_reading(self._node_id, path)
        return self._new_handle(request, _Handle(descriptor))

    def _close(self, request: int, reader: Reader) -> bytes:
        handle = self._handles.pop(self._handle_number(reader), None)
        if handle is None:
            raise _StatusError(Status.FAILURE, "no such handle")
        if handle.descriptor >= 0:
            self._files.close(handle.descriptor)
        return status_answer(request)

    def _read(self, request: int, reader: Reader) -> bytes:
        descriptor, offset, size = self._descriptor(reader), reader.number(8), reader.number()
        data = os.pread(descriptor, min(size, MAX_BLOCK), min(offset, _MAX_OFFSET))
        if not data:
            raise _StatusError(Status.EOF, "end of file")
        return struct.pack(">IBII", 9 + len(data), Answer.DATA, request, len(data)) + data

    def _write(self, request: int, reader: Reader) -> bytes:
        descriptor, offset = self._descriptor(reader), reader.number(8)
        with reader.view() as data:
            self._files.write(descriptor, data, min(offset, _MAX_OFFSET))
        return status_answer(request)

    def _look(self, request: int, reader: Reader) -> bytes:
        facts = self._files.look(self._node_id, reader.text())
        return framed(struct.pack(">BI", Answer.ATTRS, request) + attributes(facts))

    def _look_at_open(self, request: int, reader: Reader) -> bytes:
        facts = os.fstat(self._descriptor(reader))
        return framed(struct.pack(">BI", Answer.ATTRS, request) + attributes(facts))

    def _remove(self, request: int, reader: Reader) -> bytes:
        self._files.remove(self._node_id, reader.text())
        return status_answer(request)

    # --- folders and names -------------------------------------------------------------------------------------------

    def _open_folder(self, request: int, reader: Reader) -> bytes:
        if len(self._handles) >= MAX_HANDLES:
            raise _StatusError(Status.FAILURE, "too many open files")
        return self._new_handle(request, _Handle(names=self._files.listing(self._node_id, reader.text())))

    def _read_folder(self, request: int, reader: Reader) -> bytes:
        handle = self._handles.get(self._handle_number(reader))
        if handle is None or handle.descriptor >= 0:
            raise _StatusError(Status.FAILURE, "no such handle")
        if not handle.names:
            raise _StatusError(Status.EOF, "end of folder")
        now, handle.names = handle.names[:NAMES_PER_ANSWER], handle.names[NAMES_PER_ANSWER:]
        return names_answer(request, [(name.encode(), attributes(facts)) for name, facts in now])

    def _real_path(self, request: int, reader: Reader) -> bytes:
        return names_answer(request, [(resolve(reader.text()).path.encode(), struct.pack(">I", 0))])

    def _extended(self, request: int, reader: Reader) -> bytes:
        if reader.text() != POSIX_RENAME:
            raise _StatusError(Status.UNSUPPORTED, "operation unsupported")
        task = asyncio.get_running_loop().create_task(self._commit(request, reader.text(), reader.text()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return b""

    async def _commit(self, request: int, source: bytes, target: bytes) -> None:
        """Give a part its final name, durably. The disk may take its time meanwhile; a node that was cut commits
        nothing, because the rename itself happens in the thread that cuts."""
        try:
            await asyncio.to_thread(self._files.settle, self._node_id, source)
            if not self._alive():
                return
            self._files.rename(self._node_id, source, target)
            await asyncio.to_thread(self._files.settle_names, self._node_id)
            answer = status_answer(request)
            _log.info("committed", node_id=self._node_id, path=resolve(target).path)
        except OSError as error:
            answer = _failed(request, error)
        if self._alive():
            self._send(answer)

    # --- handles -----------------------------------------------------------------------------------------------------

    def _new_handle(self, request: int, handle: _Handle) -> bytes:
        self._last_handle = (self._last_handle + 1) & 0xFFFFFFFF
        self._handles[self._last_handle] = handle
        return struct.pack(">IBIII", 13, Answer.HANDLE, request, 4, self._last_handle)

    def _handle_number(self, reader: Reader) -> int:
        return int.from_bytes(reader.view(), "big")

    def _descriptor(self, reader: Reader) -> int:
        handle = self._handles.get(self._handle_number(reader))
        if handle is None or handle.descriptor < 0:
            raise _StatusError(Status.FAILURE, "no such handle")
        return handle.descriptor

    _SERVE: ClassVar[dict[int, Callable[["SftpSession", int, Reader], bytes]]] = {
        Request.OPEN: _open,
        Request.CLOSE: _close,
        Request.READ: _read,
        Request.WRITE: _write,
        Request.LSTAT: _look,
        Request.STAT: _look,
        Request.FSTAT: _look_at_open,
        Request.OPENDIR: _open_folder,
        Request.READDIR: _read_folder,
        Request.REMOVE: _remove,
        Request.REALPATH: _real_path,
        Request.EXTENDED: _extended,
    }


_MAX_OFFSET = (1 << 63) - 1  # the largest the system takes
_ERRNO_STATUS = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EPERM: Status.PERMISSION_DENIED,
}


def _failed(request: int, error: _StatusError | OSError) -> bytes:
    """The system's own word for what went wrong, never a path of this machine."""
    if isinstance(error, _StatusError):
        return status_answer(request, error.status, error.text)
    status = _ERRNO_STATUS.get(error.errno or 0, Status.FAILURE)
    if status is Status.FAILURE:
        _log.error("request_failed", error=type(error).__name__, errno=error.errno)
    return status_answer(request, status, os.strerror(error.errno) if error.errno else "failure")
