"""A line between agents and coordinator that loses, repeats and delays every kind of message in turn, replies too.

A message that is sent until it is answered (by node and path) meets two losses and then arrives more than once; polls
and heartbeats, which come for ever, meet all faults in a ring.
"""

import contextlib
import hashlib
import re
import threading
from collections import Counter, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

from hsl_model.protocol import transport

_NODE = re.compile(r"Bearer hsln_(.+?)_")
_ANSWER_S = 120.0  # more than any long poll takes
_NUM_OVERTAKING = 3  # messages of the same node that a late copy lets pass
FOR_EVER = (transport.DESIRED, transport.HEARTBEAT)


class Fault(StrEnum):
    REQUEST_LOST = auto()
    REPLY_LOST = auto()
    REPEATED = auto()  # handled twice at once; the second reply is the one that arrives
    LATE_COPY = auto()  # arrives, and once more when later ones of this node have arrived
    NONE = auto()


RING = tuple(Fault)
CHAINS = (
    (Fault.REQUEST_LOST, Fault.REPLY_LOST, Fault.REPEATED),
    (Fault.REPLY_LOST, Fault.REQUEST_LOST, Fault.LATE_COPY),
)


@dataclass
class _Message:
    path: str
    headers: dict[str, str]
    body: bytes
    overtaken_by: int = 0


class BadLine(AbstractContextManager["BadLine"]):
    """`met`: how often each kind of message met each fault. Kinds are paths with the run and round left out."""

    def __init__(self, coordinator_url: str) -> None:
        self.met: Counter[tuple[str, Fault]] = Counter()
        self._tries: Counter[tuple[str, str]] = Counter()
        self._chains: dict[tuple[str, str], tuple[Fault, ...]] = {}
        self._late: dict[str, deque[_Message]] = {}
        self._deliveries: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._http = httpx.Client(base_url=coordinator_url, timeout=_ANSWER_S, trust_env=False)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        for thread in (self._thread, *self._deliveries):
            thread.join()
        self._http.close()

    def carry(self, message: _Message) -> httpx.Response | None:
        """The reply that arrives, if one does."""
        found = _NODE.match(message.headers.get("Authorization", ""))
        node_id = found[1] if found else hashlib.sha256(message.body).hexdigest()  # nobody yet, but the same one again
        fault = self._next_fault(node_id, message.path)
        if fault is Fault.REQUEST_LOST:
            return None
        reply = self._deliver(message)
        if fault is Fault.REPEATED:
            reply = self._deliver(message)
        if fault is Fault.LATE_COPY:
            with self._lock:
                self._late.setdefault(node_id, deque()).append(message)
        else:
            self._deliver_late(node_id)
        return None if fault is Fault.REPLY_LOST else reply

    def _next_fault(self, node_id: str, path: str) -> Fault:
        key = (node_id, path)
        with self._lock:
            number = self._tries[key]
            self._tries[key] += 1
            if path in FOR_EVER:
                fault = RING[number % len(RING)]
            else:
                if key not in self._chains:
                    of_kind = sum(_kind(known) == _kind(path) for _, known in self._chains)
                    self._chains[key] = CHAINS[of_kind % len(CHAINS)]
                chain = self._chains[key]
                fault = chain[number] if number < len(chain) else Fault.NONE
            self.met[_kind(path), fault] += 1
        return fault

    def _deliver_late(self, node_id: str) -> None:
        with self._lock:
            waiting = self._late.get(node_id, deque())
            for message in waiting:
                message.overtaken_by += 1
            due = [message for message in waiting if message.overtaken_by >= _NUM_OVERTAKING]
            for message in due:
                waiting.remove(message)
                delivery = threading.Thread(target=self._deliver_copy, args=(message,))
                self._deliveries.append(delivery)
                delivery.start()

    def _deliver_copy(self, message: _Message) -> None:
        """Nobody waits for the answer to a copy, and one that comes when the coordinator has ended is simply lost."""
        with contextlib.suppress(httpx.TransportError):
            self._deliver(message)

    def _deliver(self, message: _Message) -> httpx.Response:
        return self._http.post(message.path, content=message.body, headers=message.headers)

    def _handler(line) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: text for name, text in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
                reply = line.carry(_Message(self.path, headers, body))
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status_code)
                self.send_header("Content-Type", reply.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(reply.content)))
                self.end_headers()
                self.wfile.write(reply.content)

            def log_message(self, *_: Any) -> None:
                """The tests tell what went wrong; a line per request would not."""

        return Handler


_OF_THE_CONNECTION = ("host", "content-length", "connection", "accept-encoding", "transfer-encoding")


def _kind(path: str) -> str:
    return re.sub(r"/rounds/\d+", "", re.sub(r"/runs/[^/]+", "", path.removeprefix(transport.API)))
