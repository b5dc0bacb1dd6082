"""Lines between node and hub: one that counts bytes, breaks, falls silent or is slow; and a site's CONNECT proxy."""

import base64
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from enum import Enum, auto
from types import TracebackType
from typing import Self


class Fault(Enum):
    CUT = auto()  # both ends get a reset
    SILENCE = auto()  # both ends stay open, nothing arrives any more


class Line(AbstractContextManager["Line"]):
    """`break_after` counts both directions together, from that call on, over all connections. `bytes_per_s` holds for
    each direction of a connection."""

    def __init__(self, hub_port: int, bytes_per_s: float | None = None) -> None:
        self._hub_port = hub_port
        self._bytes_per_s = bytes_per_s
        self._never = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._left: int | None = None
        self._fault = Fault.CUT
        self._broken = False
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.num_bytes = 0
        self.num_connections = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def break_after(self, num_bytes: int, fault: Fault = Fault.CUT) -> None:
        with self._lock:
            self._left, self._fault, self.num_bytes = num_bytes, fault, 0

    def heal(self) -> None:
        """New connections work again; silent ones stay silent."""
        self.cut()
        with self._lock:
            self._left, self._broken, self.num_bytes = None, False, 0

    def cut(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):  # closed by its own thread in this moment
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                node, _ = self._listener.accept()
            except OSError:
                return
            hub = self._other_end(node)
            if hub is None:
                node.close()
                continue
            for end in (node, hub):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._ends += [node, hub]
                self.num_connections += 1
            self._start(self._forward, node, hub)
            self._start(self._forward, hub, node)

    def _other_end(self, node: socket.socket) -> socket.socket | None:
        return socket.create_connection(("127.0.0.1", self._hub_port))

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536 if self._bytes_per_s is None else 8192):
                if (data := self._allowed(data)) is None:
                    return
                if self._bytes_per_s is not None:
                    self._never.wait(len(data) / self._bytes_per_s)
                target.sendall(data)
                if self._is_over():
                    self.cut()
                    return
            target.shutdown(socket.SHUT_WR)

    def _is_over(self) -> bool:
        return self._left == 0 and self._fault is Fault.CUT

    def _allowed(self, data: bytes) -> bytes | None:
        """Exactly as many bytes as may still pass; None keeps the connection open and swallows everything."""
        with self._lock:
            if self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            self.num_bytes += len(data)
        return data


class ConnectProxy(Line):
    """A forward proxy that knows CONNECT only. `names`: what "host:port" means here; others do not resolve (502).

    `seen`: each request's target with the status it was answered.
    """

    def __init__(
        self, names: Mapping[str, int], credentials: str | None = None, *, status: int | None = None, word: bytes = b""
    ) -> None:
        super().__init__(0)
        self._names = names
        self._credentials = None if credentials is None else base64.b64encode(credentials.encode()).decode()
        self._refusal = status
        self._word = word  # said instead of an answer, by something that is no proxy
        self.seen: list[tuple[str, int]] = []

    def _other_end(self, node: socket.socket) -> socket.socket | None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            if not (piece := node.recv(1)):
                return None
            request += piece
        head, *lines = request.decode("latin-1").split("\r\n")
        method, target, _ = head.split(" ")
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines if line)}
        status = self._answer_to(method, target, headers)
        self.seen.append((target, status))
        node.sendall(self._word or f"HTTP/1.1 {status} Because\r\nX-Of: this proxy\r\n\r\n".encode())
        return socket.create_connection(("127.0.0.1", self._names[target])) if status == 200 else None

    def _answer_to(self, method: str, target: str, headers: Mapping[str, str]) -> int:
        if self._refusal is not None:
            return self._refusal
        if method != "CONNECT":
            return 405
        if self._credentials is not None and headers.get("proxy-authorization") != f"Basic {self._credentials}":
            return 407
        return 200 if target in self._names else 502
