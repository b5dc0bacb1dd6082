"""Files that survive a power cut: tmp -> fsync -> rename -> fsync folder. Readers see the old file or the new one.

Whoever writes much looks for room first, and says in a sentence how much is missing: a disk that fills up in the middle
of a model is found out before it holds up the journal too.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsl_model.protocol.errors import HslError

RESERVE_BYTES = 64_000_000  # stays free for what is small and must never fail: journal, ledger, logs
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFullError(HslError):
    """Transient: somebody frees room, and the same work goes on where it was. Names no path: it may leave the house."""

    code = "no_space"
    http_status = 507
    title = "The disk is full"
    template = (
        "The disk that holds the folder {folder} has {free_mb} MB left; {needed_mb} MB more are to be written there, "
        "and {reserve_mb} MB stay free for the journal. Free at least {missing_mb} MB on it: logs, images and other "
        "programs' files; what lies in the agent's own folder is tidied by the agent."
    )

    def __init__(self, folder: Path, num_bytes: int) -> None:
        """`num_bytes`: what is still to be written."""
        free_bytes = shutil.disk_usage(folder).free
        missing = max(1, num_bytes + RESERVE_BYTES - free_bytes)
        super().__init__(
            folder=folder.name,
            free_mb=free_bytes // 1_000_000,
            needed_mb=_mb(num_bytes),
            reserve_mb=_mb(RESERVE_BYTES),
            missing_mb=_mb(missing),
        )


def check_room(folder: Path, num_bytes: int) -> None:
    """Raise `DiskFullError` unless so many bytes can be written below `folder`, beside the reserve."""
    if shutil.disk_usage(folder).free < num_bytes + RESERVE_BYTES:
        raise DiskFullError(folder, num_bytes)


@contextmanager
def told_when_full(folder: Path, num_bytes: int) -> Iterator[None]:
    """Around writing what is left, so many bytes: a disk that fills up meanwhile is a `DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(folder, num_bytes) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`. The temporary's name is fixed, so a crash leaves at most one, overwritten next time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    publish(temporary, path)


def write_private(path: Path, data: bytes) -> None:
    """The same for what only its owner may read: mode 0600 from the first byte on."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    publish(temporary, path)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its name. Both must lie in one folder; afterwards bytes and name are on the disk."""
    fsync(temporary)
    temporary.replace(final)
    fsync(final.parent)


def make_folder(path: Path) -> None:
    """For its owner only, and those above it as well. The name survives a power cut, like the files in it."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=0o700)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Bytes of a file, or names of a folder, are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mb(num_bytes: int) -> int:
    return -(-num_bytes // 1_000_000)
