"""The hub's folder on disk, as one node may use it. Errors are `OSError`; the SFTP session makes statuses of them.

    open .part ── write … write ── close ── sha256sum ── rename: fsync file, rename, fsync folder

A part may vanish in a power cut, its owner uploads it again; what has its final name is on the disk, name and bytes.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from embedded_hub.access import Place, Wish, absent, check, resolve
from hsl_model.durable import fsync
from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError

HASH_BLOCK = 1 << 20


class HubFiles:
    """Used by the event loop's thread, except for what blocks for long: `settle`, `settle_names`, `sha256`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "nodes").mkdir(parents=True, exist_ok=True)

    # --- for the admin API -------------------------------------------------------------------------------------------

    def make_folder(self, node_id: str) -> None:
        self._folder(node_id).mkdir(exist_ok=True)
        fsync(self._root / "nodes")

    def names(self, node_id: str) -> list[tuple[str, int]]:
        """Name and size of each file of the layout in a node's folder, parts too, sorted."""
        found = []
        try:
            entries = sorted(self._folder(node_id).iterdir())
        except FileNotFoundError:
            return []
        for entry in entries:
            facts = entry.lstat()
            if _is_known(node_id, entry.name) and stat.S_ISREG(facts.st_mode):
                found.append((entry.name, facts.st_size))
        return found

    def release(self, node_id: str, name: str) -> None:
        """Delete a file of any node; fine if it is gone already. Raises `RemotePathError` for other names."""
        path = f"{paths.node_folder(node_id)}/{name}"
        paths.parse(path)
        (self._root / path.lstrip("/")).unlink(missing_ok=True)

    # --- for nodes ---------------------------------------------------------------------------------------------------

    def look(self, node_id: str, raw: bytes) -> os.stat_result:
        place = resolve(raw)
        check(node_id, place, Wish.LOOK)
        facts = self._disk(place).lstat()
        if stat.S_ISLNK(facts.st_mode):
            raise absent()
        return facts

    def listing(self, node_id: str, raw: bytes) -> list[tuple[str, os.stat_result]]:
        """What this node may see in a folder, sorted by name."""
        place = resolve(raw)
        check(node_id, place, Wish.LOOK)
        if place.file is not None:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        found = []
        for entry in sorted(self._disk(place).iterdir()):
            path = f"{place.path.rstrip('/')}/{entry.name}".encode()
            try:
                found.append((entry.name, self.look(node_id, path)))
            except FileNotFoundError:
                continue  # hidden, outside the layout, or gone since
        return found

    def open_for_reading(self, node_id: str, raw: bytes) -> int:
        place = resolve(raw)
        check(node_id, place, Wish.READ)
        return self._open(place, os.O_RDONLY)

    def open_for_writing(self, node_id: str, raw: bytes, flags: int) -> int:
        """`flags`: O_CREAT, O_TRUNC, O_EXCL. Always readable too, as a resume may want to look back."""
        place = resolve(raw)
        check(node_id, place, Wish.WRITE)
        return self._open(place, os.O_RDWR | flags)

    def write(self, descriptor: int, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def remove(self, node_id: str, raw: bytes) -> None:
        place = resolve(raw)
        check(node_id, place, Wish.REMOVE)
        self._disk(place).unlink()

    def settle(self, node_id: str, raw: bytes) -> None:
        """Before a rename: the bytes of a part are on the disk. Blocks."""
        place = resolve(raw)
        check(node_id, place, Wish.RENAME_FROM)
        descriptor = self._open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, node_id: str, raw_source: bytes, raw_target: bytes) -> None:
        source, target = resolve(raw_source), resolve(raw_target)
        check(node_id, source, Wish.RENAME_FROM)
        check(node_id, target, Wish.RENAME_TO)
        self._disk(source).replace(self._disk(target))

    def settle_names(self, node_id: str) -> None:
        """After a rename: the new name is on the disk. Blocks."""
        fsync(self._folder(node_id))

    def sha256(self, node_id: str, raw: bytes) -> str:
        descriptor = self.open_for_reading(node_id, raw)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _folder(self, node_id: str) -> Path:
        return self._root / "nodes" / node_id

    def _disk(self, place: Place) -> Path:
        return self._root / place.relative

    def _open(self, place: Place, flags: int) -> int:
        if place.file is None:
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        descriptor = os.open(self._disk(place), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise absent()
        return descriptor


def _is_known(node_id: str, name: str) -> bool:
    try:
        paths.parse(f"{paths.node_folder(node_id)}/{name}")
    except RemotePathError:
        return False
    return True
