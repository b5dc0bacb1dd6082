"""Files that survive a power cut: tmp -> fsync -> rename -> fsync folder. Readers see the old file or the new one."""

import os
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`. The temporary's name is fixed, so a crash leaves at most one, overwritten next time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    publish(temporary, path)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its name. Both must lie in one folder; afterwards bytes and name are on the disk."""
    _fsync(temporary)
    temporary.replace(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
