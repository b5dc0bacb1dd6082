"""SFTPGo as a child process that is always there.

            ┌────────────────── died: at once, then after a pause ──────────────────┐
            v                                                                        │
    stopped ──start──> starting ──health, SFTP and REST answer──> serving ──restart──┤ SIGTERM, after GRACE_S SIGKILL
            ^                                                        │               │
            └────────────────────────── stop ────────────────────────┘ <─────────────┘

A restart is how a node is cut: SFTPGo keeps serving an open SSH connection with the rights of its login, even of a user
that was disabled or deleted. Ending the process ends every connection; the other nodes' transfers resume.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from sftpgo_hub.errors import ServerFailedError

LEASH = Path(__file__).with_name("leash.py")
GRACE_S = 5.0  # SFTPGo ends within milliseconds; one that hangs must not keep a revoked node connected
START_S = 60.0  # a start that is not over by then on a busy machine never will be
POLL_S = 0.05
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # between starts that fail: neither spinning nor long away
HEALTHY_FOR_S = 60.0  # after so long a life a death is a new story, and the next start comes at once

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Server:
    """What to run, and where it must answer before it counts as serving."""

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    sftp: tuple[str, int]
    health_urls: tuple[str, ...]

    def addresses(self) -> list[tuple[str, int]]:
        return [self.sftp, *((url.host, url.port or 0) for url in map(httpx.URL, self.health_urls))]


class Supervisor:
    """Used by one event loop. `start`, then `restart` at will, then `stop`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # one start or stop at a time
        self._http = httpx.AsyncClient(timeout=2.0, trust_env=False)
        self._pause_s = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Serving when this returns. Raises `ServerFailedError`."""
        async with self._turn:
            await self._begin()
        self._keeper = asyncio.create_task(self._keep())

    async def restart(self) -> None:
        """No connection of before is left when this returns, and a new server serves. Raises `ServerFailedError`: then
        all connections have ended just as well, and the server is tried again until it comes."""
        async with self._turn:
            await self._end()
            await self._begin()

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        async with self._turn:
            await self._end()
        await self._http.aclose()

    async def _keep(self) -> None:
        """Bring it back whenever it dies, for ever: every node and the coordinator wait for it meanwhile."""
        while True:
            process = self._process
            if process is not None:
                began = asyncio.get_running_loop().time()
                await process.wait()
                if asyncio.get_running_loop().time() - began > HEALTHY_FOR_S:
                    self._pause_s = 0.0
            await _pause(self._pause_s)
            async with self._turn:
                if self._process is process:  # it was not ended on purpose
                    _log.warning("server_died", exit_code=process.returncode if process is not None else None)
                    await self._try_again()

    async def _try_again(self) -> None:
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        try:
            await self._begin()
        except ServerFailedError as error:
            _log.error("server_failed", reason=error.sentence())

    async def _begin(self) -> None:
        server = self._server
        await self._ports_are_free()
        command = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), server.program, *server.arguments]
        self._process = process = await asyncio.create_subprocess_exec(
            *command, env=dict(server.environment), cwd=server.folder, stdin=asyncio.subprocess.DEVNULL
        )
        died = asyncio.create_task(process.wait())
        try:
            deadline = asyncio.get_running_loop().time() + START_S
            while not await self._answers():
                await asyncio.wait({died}, timeout=POLL_S)
                if died.done():
                    raise ServerFailedError(what=f"ended at its start with exit code {died.result()}")
                if asyncio.get_running_loop().time() > deadline:
                    await self._end()
                    raise ServerFailedError(what=f"did not answer within {START_S:.0f} s of its start")
        finally:
            died.cancel()
        _log.info("server_serves", pid=process.pid)

    async def _ports_are_free(self) -> None:
        """Whoever else listened there would be taken for our server. One that dies just now may finish."""
        deadline = asyncio.get_running_loop().time() + GRACE_S
        while taken := [port for host, port in self._server.addresses() if _is_taken(host, port)]:
            if asyncio.get_running_loop().time() > deadline:
                raise ServerFailedError(what=f"cannot listen: port {taken[0]} is taken by another program")
            await _pause(POLL_S)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _answers(self) -> bool:
        try:
            for url in self._server.health_urls:
                if not (await self._http.get(url)).is_success:
                    return False
            _, writer = await asyncio.open_connection(*self._server.sftp)
        except (OSError, httpx.HTTPError):
            return False
        writer.close()
        return True


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=seconds)


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as SFTPGo does: old connections do not matter
        try:
            one.bind((host, port))
        except OSError:
            return True
    return False
