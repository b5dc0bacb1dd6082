"""Moving files between a node and the hub: one abstraction, several implementations, one conformance suite.

    put    stat final ── there, right hash ──────────────────────────────────────> done
               └─ absent ─> .part (resumed 1 MiB before its end) ─> size, SHA-256 ─> posix-rename ─> done
    get    local .part (resumed at a whole MiB) ─> SHA-256 of the whole file ─> fsync, rename ─> done

Every operation is idempotent: after any interruption the same call goes on where the last one ended, and an answer that
got lost is found out by looking. Paths are those of `hsl_model.protocol.paths`; nothing else can be named. What a hub
says of a file is believed only when its bytes have the expected SHA-256.
"""

from pathlib import Path
from typing import Protocol

from hsl_model.durable import check_room
from hsl_model.protocol import paths
from hsl_model.protocol.errors import HslError, RemotePathError
from hsl_model.protocol.retry import FailureKind

MIB = 1 << 20


class TransferWatch(Protocol):
    """Hears of progress, and may end a transfer between two blocks."""

    def moved(self, done: int, total: int) -> None:
        """`done` of `total` bytes have arrived. The first call of a transfer tells where it resumed."""

    def cancelled(self) -> bool:
        """Asked before every block; True raises `node_agent.errors.Interrupted`, and the part stays."""


class Exchange(Protocol):
    """Used by one thread. All methods raise `ExchangeError` for what the hub or the line does. Errors of the local
    disk stay `OSError`, a full one is `DiskFullError`; names outside the layout are `RemotePathError`."""

    def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
        """Publish `source`, whose digest is `sha256`, in the node's own folder."""

    def put_manifest(self, raw: bytes, path: str) -> None:
        """Publish a manifest in one step: readers see the old one, the new one, or none."""

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        """Download into `target`, which appears only with the right bytes. Never asks for more than `num_bytes`."""

    def get_manifest(self, path: str, sha256: str) -> bytes:
        """The manifest with that digest; at most `MAX_MANIFEST_BYTES` are read."""

    def remove(self, path: str) -> None:
        """Delete a file of the node's own folder; fine if it is gone already."""

    def list_own(self) -> tuple[str, ...]:
        """Remote paths of everything in the node's own folder, unfinished parts too, sorted."""

    def close(self) -> None: ...


class ExchangeError(HslError):
    """A transfer that did not succeed; `kind` says whether another try is worth it."""

    code = "exchange_failed"
    http_status = 502
    title = "The transfer failed"
    template = "{doing}: {reason}"

    def __init__(self, *, kind: FailureKind, doing: str, reason: str | None = None) -> None:
        super().__init__(doing=doing, reason=reason or REASONS[kind])
        self.kind = kind


REASONS: dict[FailureKind, str] = {
    FailureKind.CONNECTION: "the connection to the hub failed; it is tried again by itself. If that goes on, check "
    "that this machine may reach the hub's port.",
    FailureKind.TIMEOUT: "the hub did not answer in time; it is tried again by itself.",
    FailureKind.SERVER_ERROR: "the hub could not do it; it is tried again by itself. The hub's log says why.",
    FailureKind.LIMIT: "the hub refused for now: too many connections, or it does not know this node's key (yet). It "
    "is tried again by itself; if that goes on, ask the alliance's admin.",
    FailureKind.NOT_YET_THERE: "the hub does not have the file, or not yet the folder for it.",
    FailureKind.MISMATCH: "the bytes are not the announced ones; they are transferred again.",
    FailureKind.SPACE: "the hub has no room left; ask the alliance's admin to make some.",
    FailureKind.DENIED: "the hub does not allow it; ask the alliance's admin about this node's rights.",
    FailureKind.HOST_KEY: "the hub is not the one this node enrolled with (another host key). Nothing was sent. Where "
    "the alliance changed it, `hsl node status` shows the new key, and `hsl node trust hub` says yes to it.",
    FailureKind.REJECTED: "the hub does not offer what is needed; ask the alliance's admin which hub this is.",
    FailureKind.VERSION: "hub and agent do not fit together; upgrade the older one.",
    FailureKind.BUG: "something unforeseen happened; the agent's log has the details.",
}
"""What is said where nothing more exact is known. Texts of the server never get this far."""


def own_path(path: str, node_id: str) -> paths.TensorPath | paths.ManifestPath:
    """Parse the path of something to write or remove. Raises `RemotePathError` outside the node's own folder."""
    found = paths.parse(path)
    if found.node_id != node_id:
        raise RemotePathError(path=path, reason=f"{node_id} writes only into its own folder")
    return found


def own_manifest_path(path: str, node_id: str) -> str:
    if not isinstance(own_path(path, node_id), paths.ManifestPath):
        raise RemotePathError(path=path, reason="expected the path of a manifest")
    return path


def known_paths(node_id: str, names: list[str]) -> tuple[str, ...]:
    """Remote paths of those names that the layout knows; a hub cannot make a node handle any other."""
    found = []
    for name in sorted(names):
        path = f"{paths.node_folder(node_id)}/{name}"
        try:
            paths.parse(path)
        except RemotePathError:
            continue
        found.append(path)
    return tuple(found)


class Room:
    """Is there room for the rest of a download? Looked at before it begins and with every `LOOK_EVERY` bytes."""

    LOOK_EVERY = 4 * MIB

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self._folder = folder
        self._num_bytes = num_bytes
        self._look_at = 0

    def check(self, done: int) -> None:
        """Raises `DiskFullError`."""
        if done >= self._look_at:
            self._look_at = done + self.LOOK_EVERY
            check_room(self._folder, self._num_bytes - done)


def local_part(target: Path) -> Path:
    """Where a download grows before it is complete."""
    return target.with_name(f"{target.name}.part")


def part_bytes(part: Path) -> int:
    """How much of a download is here already, and takes its room."""
    return part.stat().st_size if part.exists() else 0


def upload_offset(size: int, total: int) -> int:
    """Where to go on with a part of `size` bytes on the hub: 1 MiB before its end.

    That much was in flight when it was cut; a server stopped in that moment leaves holes there.
    """
    return max(0, size - MIB) if size <= total else 0


def download_offset(size: int, total: int) -> int:
    """Where to go on with a local part of `size` bytes, which was written in order: whole MiB of it are kept."""
    return size // MIB * MIB if size <= total else 0
