"""The life of a hub's process: alone in its folder, until a signal ends it."""

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import structlog

from hub_kit.errors import AlreadyServedError

_log = structlog.get_logger(__name__)


@contextmanager
def lock_folder(root: Path) -> Iterator[None]:
    """Two hubs on one folder would undo each other's users."""
    descriptor = os.open(root / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise AlreadyServedError(root=root) from error
    finally:
        os.close(descriptor)


async def until_signalled(hub: AbstractAsyncContextManager[object]) -> None:
    """Keep `hub` open until SIGTERM or SIGINT."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    async with hub:
        await end.wait()
    _log.info("ended")
