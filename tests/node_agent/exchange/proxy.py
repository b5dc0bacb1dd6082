"""A site's forward proxy: the line of the fault tests, after an answer to CONNECT."""

import base64
import socket
from collections.abc import Mapping

from tests.faults.line import Line


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

    async def _other_end(self, client: socket.socket) -> socket.socket:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            if not (piece := await self._loop.sock_recv(client, 1)):
                raise ConnectionResetError
            request += piece
        head, *lines = request.decode("latin-1").split("\r\n")
        method, target, _ = head.split(" ")
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines if line)}
        status = self._answer_to(method, target, headers)
        self.seen.append((target, status))
        answer = self._word or f"HTTP/1.1 {status} Because\r\nX-Of: this proxy\r\n\r\n".encode()
        await self._loop.sock_sendall(client, answer)
        if status != 200:
            raise ConnectionRefusedError
        return await self._connected(self._names[target])

    def _answer_to(self, method: str, target: str, headers: Mapping[str, str]) -> int:
        if self._refusal is not None:
            return self._refusal
        if method != "CONNECT":
            return 405
        if self._credentials is not None and headers.get("proxy-authorization") != f"Basic {self._credentials}":
            return 407
        return 200 if target in self._names else 502
