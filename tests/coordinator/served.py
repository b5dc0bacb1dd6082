"""An ASGI application in its own event loop, spoken to by ordinary blocking `httpx` from any thread.

Everything is as behind a real server (lifespan, thread pool, concurrent requests), without a socket.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from fastapi import FastAPI

T = TypeVar("T")


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> Any:
        yield self._content


class ServedApp(httpx.BaseTransport):
    """A transport for `with httpx.Client(transport=...)`: the client's block is the application's lifespan."""

    def __init__(self, app: FastAPI) -> None:
        self.app: Any = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served-app", daemon=True)
        self._lifespan: AbstractAsyncContextManager[Any] = app.router.lifespan_context(app)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._lifespan.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._lifespan.__aexit__(None, None, None))
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.run(self._handle(request))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        sent = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=_Body(request.read()),
            extensions=request.extensions,
        )
        reply = await httpx.ASGITransport(self.app).handle_async_request(sent)
        return httpx.Response(reply.status_code, headers=reply.headers, content=await reply.aread())
