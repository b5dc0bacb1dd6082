"""The coordinator as a process: `serve` runs until it is told to stop, and then stops within seconds."""

import os
import signal
import socket
import types

import uvicorn

from coordinator.app import create_app
from coordinator.hub.admin import HubAdmin
from coordinator.kernel import Kernel
from coordinator.settings import CoordinatorSettings
from hsl_model.logs import configure_logs

GRACE_S = 2  # a request that hangs must not keep a supervisor from restarting the coordinator
KEEP_ALIVE_S = 75  # longer than the nodes' pauses between messages, so that they need no new TLS handshake each time


class _Server(uvicorn.Server):
    """Lets the long polls go before waiting for open requests; each is answered with what is known now."""

    def __init__(self, config: uvicorn.Config, kernel: Kernel) -> None:
        super().__init__(config)
        self._kernel = kernel

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._kernel.notifier.close()
        await super().shutdown(sockets)


def serve(settings: CoordinatorSettings, *, hub: HubAdmin | None = None) -> None:
    """Serve until SIGTERM or SIGINT; exits with status 0 then. `hub`: None takes the one of the settings."""
    os.umask(0o077)  # the database holds the hashes of tokens: nobody else on this machine reads it
    settings.workdir.mkdir(parents=True, exist_ok=True)
    configure_logs(settings.log_level, ("apscheduler", "alembic", "httpx", "httpcore"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # uvicorn takes them over while it runs, and raises them again at its end
    app = create_app(settings, hub=hub)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    _Server(config, app.state.kernel).run()


def _leave(number: int, frame: types.FrameType | None) -> None:
    del number, frame
    raise SystemExit(0)
