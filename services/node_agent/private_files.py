"""Files that only the agent's user may read: keys, tokens, the address of the site API."""

from pathlib import Path

from hsl_model import durable


def write_private(path: Path, data: bytes) -> None:
    """`durable.write_private`, in a folder that is made for it if need be."""
    private_folder(path.parent)
    durable.write_private(path, data)


def private_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
