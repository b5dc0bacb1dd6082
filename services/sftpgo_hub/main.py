"""One process beside SFTPGo: prepares its folder, runs it as a child, restarts it on request, ends with it.

    lock the folder ─> host key, templates, provision ─> SFTPGo serves ─> admin API ─> hub.json ─> … ─> SIGTERM ─> end

Everything a restart needs is on the disk. Killed at any moment, the kernel ends the child too, and the next start finds
the same users, the same host key and, of unfinished uploads, parts that their owners resume.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from hsl_model.durable import write_bytes
from hsl_model.logs import configure_logs
from hub_kit.admin import serving
from hub_kit.errors import HubError
from hub_kit.process import lock_folder, until_signalled
from sftpgo_hub.admin import Address, create_admin
from sftpgo_hub.folder import environment, prepare
from sftpgo_hub.program import find_program
from sftpgo_hub.settings import ANYWHERE, HubSettings
from sftpgo_hub.supervisor import Server, Supervisor

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_hub(settings: HubSettings) -> AsyncIterator[Supervisor]:
    """A hub that serves for as long as the block lasts."""
    program = find_program()
    settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_folder(settings.root):
        settings.ready_file.unlink(missing_ok=True)
        address = Address(
            host=settings.public_host or settings.host,
            port=settings.port,
            host_key=prepare(settings),
            rest_port=settings.rest_port,
            files_folder=str(settings.files_folder.resolve()),
        )
        supervisor = Supervisor(_server(settings, str(program)))
        try:
            await supervisor.start()
            app = create_admin(settings.admin_token.get_secret_value(), address, supervisor)
            async with serving(app, settings.admin_host, settings.admin_port) as admin_port:
                admin_url = f"http://{_asked(settings.admin_host)}:{admin_port}"
                ready = {**address.model_dump(), "admin_url": admin_url}
                write_bytes(settings.ready_file, json.dumps(ready, indent=2).encode() + b"\n")
                _log.info("serving", host=settings.host, port=settings.port, admin_url=admin_url)
                yield supervisor
        finally:
            await supervisor.stop()


def _server(settings: HubSettings, program: str) -> Server:
    folder = settings.server_folder.resolve()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SFTPGO_", "HSL_"))}
    return Server(
        program=program,
        arguments=("serve", "-c", str(folder)),
        environment={**inherited, **environment(settings)},
        folder=folder,
        sftp=(_asked(settings.host), settings.port),
        health_urls=(
            f"http://{_asked(settings.metrics_host)}:{settings.metrics_port}/healthz",
            f"http://{_asked(settings.admin_host)}:{settings.rest_port}/healthz",
        ),
    )


def _asked(host: str) -> str:
    return ANYWHERE.get(host, host)


def serve(settings: HubSettings) -> None:
    """Serve until SIGTERM or SIGINT. A hub that cannot start says why and exits with status 1."""
    os.umask(0o077)  # the nodes' files and the hub's secrets are nobody else's on this machine
    configure_logs(settings.log_level, ("httpx", "uvicorn", "asyncio"))
    try:
        asyncio.run(until_signalled(running_hub(settings)))
    except (HubError, OSError) as error:
        _log.error("cannot_serve", reason=str(error))
        sys.exit(1)
