"""The ledger's mark on every reply to a node: id, generation, newest event. Kept in memory: a reply costs no query."""

import threading

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsl_model.protocol.ledger import Mark
from hsl_model.protocol.transport import API, ENROL, LEDGER_HEADER

_TO_NODES = (f"{API}/node/", ENROL)


class NewestMark:
    """What this process has committed, or found at its start; no reply names an event that could still be undone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark: Mark | None = None

    @property
    def value(self) -> Mark | None:
        """None until the database was read."""
        return self._mark

    def set(self, mark: Mark) -> None:
        with self._lock:
            self._mark = mark

    def committed(self, event_id: int | None) -> None:
        with self._lock:
            if event_id is not None and self._mark is not None and event_id > self._mark.event_id:
                self._mark = Mark(self._mark.ledger_id, self._mark.generation, event_id)


class MarkReplies:
    """ASGI middleware: the mark of the moment when the reply begins, on errors too."""

    def __init__(self, app: ASGIApp, newest: NewestMark) -> None:
        self._app = app
        self._newest = newest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TO_NODES):
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            mark = self._newest.value
            if message["type"] == "http.response.start" and mark is not None:
                header = (LEDGER_HEADER.lower().encode(), mark.header().encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self._app(scope, receive, marked)
