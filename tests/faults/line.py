"""A line to a server that counts bytes, and breaks at exactly one of them.

toxiproxy (`toxiproxy.py`) makes lines slow, far and lossy; it cuts after whole pieces as they happen to come. Here the
place is a byte of the TCP stream, in one direction or in both together.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 60.0
_AT_ONCE = struct.pack("ii", 1, 0)  # closing sends a reset


class Fault(Enum):
    CUT = auto()  # both ends see the other one's end, right behind the last byte
    RESET = auto()  # both ends get a reset
    SILENCE = auto()  # both ends stay open, bytes are taken and go nowhere
    HALF_OPEN = auto()  # both ends stay open, and nobody takes bytes any more: the other side has vanished


class Way(Enum):
    UP = auto()  # to the server
    DOWN = auto()


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def ends(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server


class Line(AbstractContextManager["Line"]):
    """`source`: the address that the server sees. `bytes_per_s`: of each direction of a connection."""

    def __init__(self, server_port: int, source: str = "127.0.0.1", bytes_per_s: float | None = None) -> None:
        self._server_port, self._source, self._bytes_per_s = server_port, source, bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line")
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._ending: list[asyncio.Task[None]] = []
        self._left: int | None = None
        self._fault, self._way = Fault.CUT, None
        self.moved: Counter[Way] = Counter()  # bytes that passed since the last `break_after` or `heal`
        self.num_connections = 0

    @property
    def num_bytes(self) -> int:
        return self.moved.total()

    def __enter__(self) -> Self:
        self._thread.start()
        self._accepting = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._accepting.cancel()
        self._do(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._loop.close()
        self._listener.close()

    def break_after(self, num_bytes: int, fault: Fault = Fault.CUT, way: Way | None = None) -> None:
        """Counted from now on, over all connections; `way` None counts both directions together. 0: at once."""
        with self._lock:
            self._left, self._fault, self._way = num_bytes, fault, way
            self.moved.clear()
        if num_bytes == 0:
            self._do(self._break())

    def heal(self) -> None:
        """What is open ends with a reset; new connections work."""
        self._do(self._end_all())
        with self._lock:
            self._left, self._way = None, None
            self.moved.clear()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    # --- in the loop -------------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            try:
                server = await self._other_end(client)
            except BaseException as error:  # it is down, or we are to end
                client.close()
                if isinstance(error, OSError):
                    continue
                raise
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server)
            self._connections.append(connection)
            self.num_connections += 1
            if not (self._is_broken() and self._fault is Fault.HALF_OPEN):
                connection.tasks = [self._loop.create_task(self._forward(connection, way)) for way in Way]

    async def _other_end(self, client: socket.socket) -> socket.socket:
        """Where the bytes of `client` go. Raises `OSError`: nowhere, and the client sees the end."""
        del client
        return await self._connected(self._server_port)

    async def _connected(self, port: int) -> socket.socket:
        server = socket.socket()
        server.setblocking(False)
        try:
            server.bind((self._source, 0))
            await self._loop.sock_connect(server, ("127.0.0.1", port))
        except BaseException:
            server.close()
            raise
        return server

    async def _forward(self, connection: _Connection, way: Way) -> None:
        source, target = connection.ends if way is Way.UP else reversed(connection.ends)
        try:
            while data := await self._loop.sock_recv(source, 65536 if self._bytes_per_s is None else 8192):
                was_broken, data = self._is_broken(), self._allowed(data, way)
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                await self._loop.sock_sendall(target, data)
                if self._is_broken() and not (was_broken and self._fault is Fault.SILENCE):
                    await asyncio.shield(self._loop.create_task(self._break()))
            target.shutdown(socket.SHUT_WR)
        except OSError:  # a reset at one end is one at the other
            if connection in self._connections:  # its other direction was not quicker
                self._connections.remove(connection)
                self._ending.append(self._loop.create_task(_end(connection)))

    def _is_broken(self) -> bool:
        return self._left == 0

    def _allowed(self, data: bytes, way: Way) -> bytes:
        """Exactly as many bytes as may still pass."""
        with self._lock:
            if self._left is not None and (self._left == 0 or self._way in (None, way)):
                data = data[: self._left]
                self._left -= len(data)
            self.moved[way] += len(data)
        return data

    async def _break(self) -> None:
        if self._fault is Fault.RESET:
            await self._end_all()
        for connection in self._connections:
            if self._fault is Fault.HALF_OPEN:
                await _stop(connection)
            if self._fault is Fault.CUT:
                for end in connection.ends:
                    with suppress(OSError):  # its own end was quicker
                        end.shutdown(socket.SHUT_WR)

    async def _end_all(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            await _end(connection)
        await asyncio.gather(*self._ending)


async def _end(connection: _Connection) -> None:
    """With a reset at both ends."""
    await _stop(connection)
    for end in connection.ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        end.close()


async def _stop(connection: _Connection) -> None:
    for task in connection.tasks:
        task.cancel()
    await asyncio.gather(*connection.tasks, return_exceptions=True)
    connection.tasks = []
