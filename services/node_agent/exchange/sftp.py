"""The exchange over SFTP, as `base` draws it. One connection is kept; each transfer gets a channel of its own.

The commit is ours, not the server's: bytes grow under `<sha256>.part`, are checked by size and by SHA-256 on the hub,
and get their name by one posix-rename. A name holds the digest of its content, so a late write of a session thought
dead can only write the same bytes again, and "not found" where there just was a part may mean: already done.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from paramiko.ssh_exception import SSHException

from hsl_model.checkpoint import sha256_file
from hsl_model.durable import publish, told_when_full
from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError
from hsl_model.protocol.manifest import MAX_MANIFEST_BYTES
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import (
    MIB,
    ExchangeError,
    Room,
    TransferWatch,
    download_offset,
    known_paths,
    local_part,
    own_manifest_path,
    own_path,
    part_bytes,
    upload_offset,
)
from node_agent.exchange.failures import is_connection_lost, remote_errors
from node_agent.exchange.link import STALL_S, Link
from node_agent.exchange.pace import Pace
from node_agent.exchange.pipeline import OpenMode, Patience, RemoteFile
from node_agent.proxy import Proxy


@dataclass(frozen=True)
class _Upload:
    """What is to lie under `final`, and where it grows until then."""

    source: BinaryIO
    sha256: str
    num_bytes: int
    part: str
    final: str
    doing: str


class _NoWatch:
    """Small files: nothing to show, and not worth an interruption."""

    def moved(self, done: int, total: int) -> None:
        del done, total

    def cancelled(self) -> bool:
        return False


class SftpExchange:
    """`stall_s`: how long no byte may move before a transfer gives up and is resumed later."""

    def __init__(
        self,
        hub: HubAddress,
        ssh_key: Path,
        node_id: str,
        stall_s: float = STALL_S,
        pace: Pace | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self._link = Link(hub, ssh_key, stall_s, proxy)
        self._node_id = node_id
        self._pace = pace or Pace()

    # --- upload ------------------------------------------------------------------------------------------------------

    def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
        final, part = paths.tensor_path(node_id, sha256), paths.part_path(node_id, sha256)
        own_path(final, self._node_id)
        with source.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            self._put(_Upload(file, sha256, num_bytes, part, final, f"Publishing {sha256[:12]}"), watch)

    def put_manifest(self, raw: bytes, path: str) -> None:
        final = own_manifest_path(path, self._node_id)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise RemotePathError(path=path, reason=f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
        sha256 = hashlib.sha256(raw).hexdigest()
        part = paths.part_path(self._node_id, sha256)
        self._put(_Upload(io.BytesIO(raw), sha256, len(raw), part, final, "Publishing a manifest"), _NoWatch())

    def _put(self, upload: _Upload, watch: TransferWatch) -> None:
        with self._connection():
            if not self._is_there(upload):
                try:
                    self._send(upload, watch)
                    self._commit(upload)
                except ExchangeError as error:
                    # Another session of this node may have brought the same bytes to their name in the meantime.
                    if error.kind is not FailureKind.NOT_YET_THERE or not self._is_there(upload):
                        raise
            watch.moved(upload.num_bytes, upload.num_bytes)

    def _is_there(self, upload: _Upload) -> bool:
        """Also how a lost answer is found out. A file that rotted on the hub is not there: it is replaced."""
        if self._size(upload.final, upload.doing) != upload.num_bytes:
            return False
        return self._hub_sha256(upload.final, upload.num_bytes, upload.doing) == upload.sha256

    def _send(self, upload: _Upload, watch: TransferWatch) -> None:
        """Truncates nothing but a part that cannot be ours: another session may be writing or committing it."""
        kept = self._size(upload.part, upload.doing)
        offset = upload_offset(kept or 0, upload.num_bytes)
        upload.source.seek(offset)
        mode = OpenMode.CREATE if kept is None else OpenMode.RESUME if kept <= upload.num_bytes else OpenMode.REPLACE
        with self._open(upload.part, mode, watch.cancelled, upload.doing) as remote:
            watch.moved(offset, upload.num_bytes)
            try:
                remote.write(
                    upload.source, (offset, upload.num_bytes), lambda done: watch.moved(done, upload.num_bytes)
                )
            except ExchangeError as error:
                if error.kind is FailureKind.SPACE:
                    self._keep_whole(remote, upload)
                raise
            remote.close()

    def _keep_whole(self, remote: RemoteFile, upload: _Upload) -> None:
        """On a full disk a later piece may have found room where an earlier one had not: that hole would lie further
        back than a resume looks. A hub that cannot cut a file writes in order."""
        with suppress(ExchangeError):
            remote.close()
        with suppress(ExchangeError), remote_errors(upload.doing):
            self._link.sftp().truncate(upload.part, remote.num_whole)

    def _commit(self, upload: _Upload) -> None:
        found = self._size(upload.part, upload.doing)
        if found is None:
            raise ExchangeError(kind=FailureKind.NOT_YET_THERE, doing=upload.doing)
        if found != upload.num_bytes or self._hub_sha256(upload.part, found, upload.doing) != upload.sha256:
            self._remove(upload.part, upload.doing)
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=upload.doing)
        with remote_errors(upload.doing):
            self._link.sftp().posix_rename(upload.part, upload.final)

    def _hub_sha256(self, path: str, num_bytes: int, doing: str) -> str:
        with remote_errors(doing):
            found = self._link.sha256(path, num_bytes)
        if found is not None:
            return found
        digest = hashlib.sha256()
        with self._open(path, OpenMode.READ, _NoWatch().cancelled, doing) as remote:
            for piece in remote.read(0, num_bytes):
                digest.update(piece)
        return digest.hexdigest()

    # --- download ----------------------------------------------------------------------------------------------------

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        if target.is_file() and target.stat().st_size == num_bytes and sha256_file(target) == sha256:
            watch.moved(num_bytes, num_bytes)
            return
        doing = f"Downloading {sha256[:12]} of {node_id}"
        part = local_part(target)
        Room(part.parent, num_bytes).check(part_bytes(part))
        with (
            self._connection(),
            self._open_sized(paths.tensor_path(node_id, sha256), num_bytes, watch.cancelled, doing) as remote,
        ):
            digest = _download(remote, part, num_bytes, watch)
        if digest != sha256:
            part.unlink()
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=doing)
        with told_when_full(part.parent, num_bytes):  # some disks say only now that they have no room
            publish(part, target)

    def get_manifest(self, path: str, sha256: str) -> bytes:
        paths.parse(path)
        doing = "Reading a manifest"
        with self._connection(), self._open(path, OpenMode.READ, _NoWatch().cancelled, doing) as remote:
            size = remote.size()
            raw = b"".join(remote.read(0, size)) if size <= MAX_MANIFEST_BYTES else b""
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=doing)
        return raw

    @contextmanager
    def _open_sized(self, path: str, num_bytes: int, cancelled: Callable[[], bool], doing: str) -> Iterator[RemoteFile]:
        """Refuses a file of another size before anything of it is read or a byte is set aside for it."""
        with self._open(path, OpenMode.READ, cancelled, doing) as remote:
            if remote.size() != num_bytes:
                raise ExchangeError(kind=FailureKind.MISMATCH, doing=doing)
            yield remote

    # --- the node's own folder ---------------------------------------------------------------------------------------

    def remove(self, path: str) -> None:
        own_path(path, self._node_id)
        with self._connection():
            self._remove(path, "Removing a file")

    def list_own(self) -> tuple[str, ...]:
        with self._connection(), remote_errors("Listing the own folder"):
            names = self._link.sftp().listdir(paths.node_folder(self._node_id))
        return known_paths(self._node_id, names)

    def close(self) -> None:
        self._link.close()

    # --- pieces ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Around a whole operation: a connection that failed is not used again."""
        try:
            yield
        except ExchangeError as error:
            if is_connection_lost(error):
                self._link.close()
            raise

    @contextmanager
    def _open(self, path: str, mode: OpenMode, cancelled: Callable[[], bool], doing: str) -> Iterator[RemoteFile]:
        """A file on a channel of its own. The channel ends with the block, however it ends."""
        with remote_errors(doing):
            channel = self._link.sftp_channel()
        try:
            remote = RemoteFile(channel, Patience(self._link.stall_s, cancelled), self._pace, doing)
            remote.open(path, mode)
            yield remote
        finally:
            # On a dead connection this fails too, and must not hide how the transfer itself ended.
            with suppress(SSHException, OSError, EOFError):
                channel.close()

    def _size(self, path: str, doing: str) -> int | None:
        """None if there is no such file."""
        with remote_errors(doing):
            try:
                return self._link.sftp().stat(path).st_size
            except FileNotFoundError:
                return None

    def _remove(self, path: str, doing: str) -> None:
        with remote_errors(doing):
            try:
                self._link.sftp().remove(path)
            except FileNotFoundError:
                return  # gone already: a retry whose first answer was lost


def _download(remote: RemoteFile, part: Path, num_bytes: int, watch: TransferWatch) -> str:
    """Bring the local part to `num_bytes`; the SHA-256 of all of it, of what was kept from an earlier try too."""
    digest = hashlib.sha256()
    with told_when_full(part.parent, num_bytes), part.open("r+b" if part.exists() else "w+b") as file:
        done = _kept(file, num_bytes, digest.update, watch)
        watch.moved(done, num_bytes)
        room = Room(part.parent, num_bytes)
        for piece in remote.read(done, num_bytes):
            room.check(done)
            file.write(piece)
            digest.update(piece)
            done += len(piece)
            watch.moved(done, num_bytes)
    return digest.hexdigest()


def _kept(file: BinaryIO, num_bytes: int, update: Callable[[bytes], object], watch: TransferWatch) -> int:
    """Hash what an earlier try left and is kept, cut off the rest, and say where to go on."""
    offset = download_offset(os.fstat(file.fileno()).st_size, num_bytes)
    file.truncate(offset)
    for _ in range(offset // MIB):
        if watch.cancelled():
            raise Interrupted
        update(file.read(MIB))
    return offset
