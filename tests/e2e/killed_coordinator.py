"""The coordinator, killed before it handles a named request, or when the transaction is committed and no reply is sent.

Points: `before:announce`, `after:fusion`, …, each at its first occurrence in a round of training (round 1 and later).
"""

import re
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import coordinator.main
from coordinator.app import create_app
from coordinator.settings import CoordinatorSettings
from tests.e2e.kill_points import KillPoints

KINDS = {
    "announce": re.compile(r"/rounds/[1-9]\d*/announce$"),
    "fusion": re.compile(r"/rounds/[1-9]\d*/fusion$"),
    "initial": re.compile(r"/rounds/0/announce$"),
    "accept": re.compile(r"/accept$"),
    "start": re.compile(r"/start$"),
    "desired": re.compile(r"/node/desired$"),
    "heartbeat": re.compile(r"/node/heartbeat$"),
}


class Killing:
    def __init__(self, app: ASGIApp, points: KillPoints) -> None:
        self._app, self._points = app, points

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = next((name for name, path in KINDS.items() if path.search(scope.get("path", ""))), None)
        if kind is None:
            await self._app(scope, receive, send)
            return
        self._points.reached(f"before:{kind}")

        async def replying(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                self._points.reached(f"after:{kind}")
            await send(message)

        await self._app(scope, receive, replying)


def create_killing_app(settings: CoordinatorSettings, **parts: Any) -> FastAPI:
    app = create_app(settings, **parts)
    app.add_middleware(Killing, points=KillPoints())
    return app


if __name__ == "__main__":
    coordinator.main.create_app = create_killing_app  # type: ignore[assignment]
    coordinator.main.serve(CoordinatorSettings())
