"""Files that only the agent's user may read: keys, tokens, the address of the site API."""

import os
from pathlib import Path

from hsl_model.durable import publish


def write_private(path: Path, data: bytes) -> None:
    """Durable and atomic; mode 0600 from the first byte on, so no moment exists at which others could read it."""
    private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    publish(temporary, path)


def private_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
