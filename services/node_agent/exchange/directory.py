"""The exchange over a plain folder: the hub of a simulation, and the fastest of the suite's implementations."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hsl_model.checkpoint import sha256_file
from hsl_model.durable import publish, told_when_full
from hsl_model.protocol import paths
from hsl_model.protocol.manifest import MAX_MANIFEST_BYTES
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import (
    MIB,
    ExchangeError,
    Room,
    TransferWatch,
    known_paths,
    local_part,
    own_manifest_path,
    own_path,
    part_bytes,
)


class DirectoryExchange:
    """`root` holds `nodes/<node_id>/…`. A transfer that was interrupted starts anew: copying locally costs nothing."""

    def __init__(self, root: Path, node_id: str) -> None:
        self._root = root
        self._node_id = node_id

    def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
        final = self._local(paths.tensor_path(node_id, sha256))
        part = self._local(paths.part_path(node_id, sha256))
        own_path(paths.part_path(node_id, sha256), self._node_id)
        part.parent.mkdir(parents=True, exist_ok=True)
        doing = f"Publishing {sha256[:12]}"
        total = source.stat().st_size
        with self._hub_errors(doing):
            there = final.is_file() and final.stat().st_size == total and sha256_file(final) == sha256
        if there:
            watch.moved(total, total)
            return
        with source.open("rb") as reader:
            self._copy(reader, part, (sha256, total), watch, doing)
        with self._hub_errors(doing):
            publish(part, final)

    def put_manifest(self, raw: bytes, path: str) -> None:
        target = self._local(own_manifest_path(path, self._node_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._hub_errors("Publishing a manifest"):
            part = target.with_name(f"{hashlib.sha256(raw).hexdigest()}.part")
            part.write_bytes(raw)
            publish(part, target)

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        doing = f"Downloading {sha256[:12]} of {node_id}"
        if target.is_file() and target.stat().st_size == num_bytes and sha256_file(target) == sha256:
            watch.moved(num_bytes, num_bytes)
            return
        part = local_part(target)
        Room(part.parent, num_bytes).check(part_bytes(part))
        with self._open(paths.tensor_path(node_id, sha256), doing) as reader, told_when_full(part.parent, num_bytes):
            self._copy(reader, part, (sha256, num_bytes), watch, doing)
        publish(part, target)

    def get_manifest(self, path: str, sha256: str) -> bytes:
        doing = "Reading a manifest"
        with self._open(path, doing) as reader:
            raw = reader.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES or hashlib.sha256(raw).hexdigest() != sha256:
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=doing)
        return raw

    def remove(self, path: str) -> None:
        own_path(path, self._node_id)
        with self._hub_errors("Removing a file"):
            self._local(path).unlink(missing_ok=True)

    def list_own(self) -> tuple[str, ...]:
        folder = self._root / paths.node_folder(self._node_id).lstrip("/")
        return known_paths(self._node_id, [path.name for path in folder.iterdir()] if folder.is_dir() else [])

    def close(self) -> None:
        """Nothing is kept open."""

    def _local(self, path: str) -> Path:
        paths.parse(path)
        return self._root / path.lstrip("/")

    @contextmanager
    def _open(self, path: str, doing: str) -> Iterator[BinaryIO]:
        with self._hub_errors(doing):
            file = self._local(path).open("rb")
        with file:
            yield file

    def _copy(self, reader: BinaryIO, part: Path, expected: tuple[str, int], watch: TransferWatch, doing: str) -> None:
        """Copy at most what is expected; the part stays only if its digest and size are right."""
        sha256, total = expected
        digest, done = hashlib.sha256(), 0
        watch.moved(0, total)
        with part.open("wb") as writer:
            while block := reader.read(min(MIB, total + 1 - done)):
                if watch.cancelled():
                    raise Interrupted
                writer.write(block)
                digest.update(block)
                done += len(block)
                watch.moved(min(done, total), total)
        if done != total or digest.hexdigest() != sha256:
            part.unlink()
            raise ExchangeError(kind=FailureKind.MISMATCH, doing=doing)

    @contextmanager
    def _hub_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ExchangeError(kind=FailureKind.NOT_YET_THERE, doing=doing) from error
        except PermissionError as error:
            raise ExchangeError(kind=FailureKind.DENIED, doing=doing) from error
