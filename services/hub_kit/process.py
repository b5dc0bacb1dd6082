"""The life of a hub's process: alone in its folder, until a signal ends it."""

import asyncio
import signal
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path

import structlog

from hsl_model.locking import alone
from hub_kit.errors import AlreadyServedError

_log = structlog.get_logger(__name__)


def lock_folder(root: Path) -> AbstractContextManager[None]:
    """Two hubs on one folder would undo each other's users. Raises `AlreadyServedError` when entered."""
    return alone(root / "hub.lock", lambda: AlreadyServedError(root=root))


async def until_signalled(hub: AbstractAsyncContextManager[object]) -> None:
    """Keep `hub` open until SIGTERM or SIGINT."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    async with hub:
        await end.wait()
    _log.info("ended")
