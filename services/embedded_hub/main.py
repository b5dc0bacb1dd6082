"""One process, one event loop: the SFTP server for the nodes and the loopback API for the coordinator.

    lock the folder ─> users, host key ─> both ports listen ─> hub.json ─> … ─> SIGTERM or SIGINT ─> end

Everything a restart needs is on the disk; killed at any moment, the hub comes back with the same nodes, the same host
key and, of unfinished uploads, parts that their owners resume.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from embedded_hub.admin import Address, create_admin
from embedded_hub.files import HubFiles
from embedded_hub.server import Connections, HubParts, listen
from embedded_hub.settings import ADMIN_HOST, HubSettings
from embedded_hub.users import Users, ensure_host_key, host_key_line
from hsl_model.durable import write_bytes
from hsl_model.logs import configure_logs
from hsl_model.memory import keep_freed_memory
from hub_kit.admin import serving
from hub_kit.process import lock_folder, until_signalled

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_hub(settings: HubSettings, files: HubFiles | None = None) -> AsyncIterator[Address]:
    """A hub that serves for as long as the block lasts. `files`: another disk, for tests of what disks do."""
    settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_folder(settings.root):
        settings.ready_file.unlink(missing_ok=True)
        users, files = Users(settings.users_file), files or HubFiles(settings.files_folder)
        host_key, connections = ensure_host_key(settings.host_key_file), Connections()
        async with await listen(settings, host_key, HubParts(users, files, connections)) as sftp:
            host = settings.public_host or settings.host
            address = Address(host=host, port=sftp.get_port(), host_key=host_key_line(host_key))
            app = create_admin(settings.admin_token.get_secret_value(), address, HubParts(users, files, connections))
            async with serving(app, ADMIN_HOST, settings.admin_port) as admin_port:
                ready = {**address.model_dump(), "admin_url": f"http://{ADMIN_HOST}:{admin_port}"}
                write_bytes(settings.ready_file, json.dumps(ready, indent=2).encode() + b"\n")
                _log.info("serving", host=settings.host, port=address.port, admin_url=ready["admin_url"])
                try:
                    yield address
                finally:
                    connections.end_all()


def serve(settings: HubSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `HubError` if the folder cannot be served, `OSError` if a port is taken."""
    configure_logs(settings.log_level, ("asyncssh", "uvicorn", "asyncio"))
    keep_freed_memory()
    asyncio.run(until_signalled(running_hub(settings)))
