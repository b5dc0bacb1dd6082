"""The files this node keeps, each named by its SHA-256, with a row for every reason it is kept.

A file is deleted when no reason is left. Reasons end when the coordinator says so (`release_before`, `keep`), and never
for the newest fused model, this node's newest own tensors, or the run's initial weights (rule 7). That it is to go is
noted with the end of its last reason, and until the disk has let it go: no crash leaves a file that nobody speaks of.
"""

import os
import shutil
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hsl_model.checkpoint import FileFacts, sha256_file
from hsl_model.durable import check_room, fsync, publish, told_when_full
from node_agent.exchange.base import local_part
from node_agent.journal import Journal


class FileKind(StrEnum):
    UPDATE = "update"  # what a node published, own or a peer's
    PRIVATE = "private"  # this node's tensors that the method does not share
    FUSED = "fused"  # the common model of a round
    OWN = "own"  # this node's own mixture, where the method makes one
    INITIAL = "initial"  # the run's initial weights: completes every later model


PUBLISHABLE = frozenset({FileKind.UPDATE, FileKind.FUSED, FileKind.INITIAL})
"""What may be put on the hub when the coordinator asks for it. Nothing that a method keeps at home."""


@dataclass(frozen=True)
class KeptFile:
    sha256: str
    run_id: str
    round_number: int
    kind: FileKind
    num_bytes: int


class Store:
    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self._journal = journal
        self._checked: set[str] = set()  # digests whose bytes this process has hashed itself
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def keep(self, file: KeptFile) -> None:
        """Record why a file is kept; before a download, so that no file lies here without a reason.

        Of a round there is one model of each kind: a newer one (another plan version, the ledger's) takes its place.
        """
        with self._journal.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO kept_files (sha256, run_id, round_number, kind, num_bytes) VALUES (?,?,?,?,?)",
                (file.sha256, file.run_id, file.round_number, file.kind, file.num_bytes),
            )
            others = [
                other
                for other in self._files(file.run_id)
                if (other.round_number, other.kind) == (file.round_number, file.kind) and other.sha256 != file.sha256
            ]
            if file.kind is FileKind.UPDATE:
                return
            for other in others:
                self._forget(other)
        self._sweep()

    def take(self, made: FileFacts, run_id: str, round_number: int, kind: FileKind) -> None:
        """Take a file that the child or a fusion made. The original stays, so that its maker can be asked again."""
        self.keep(KeptFile(made.sha256, run_id, round_number, kind, made.num_bytes))
        if not self.has(made.sha256):
            temporary = self.folder / f"{made.sha256}.new"
            temporary.unlink(missing_ok=True)
            try:
                os.link(made.path, temporary)
            except OSError:  # a file system without hard links
                check_room(self.folder, made.num_bytes)
                with told_when_full(self.folder, made.num_bytes):
                    shutil.copyfile(made.path, temporary)
            publish(temporary, self.path(made.sha256))
        self._checked.add(made.sha256)

    def mark_checked(self, sha256: str) -> None:
        """A download has just been hashed on its way in."""
        self._checked.add(sha256)

    def is_intact(self, sha256: str) -> bool:
        """Whether the file is here with the right bytes; read once per process, then remembered."""
        if not self.has(sha256):
            return False
        if sha256 not in self._checked:
            if sha256_file(self.path(sha256)) != sha256:
                return False
            self._checked.add(sha256)
        return True

    def distrust(self, sha256s: Collection[str]) -> None:
        """Read these files again before they are used: a fusion came out different from the others'."""
        self._checked -= set(sha256s)

    def discard(self, sha256: str) -> None:
        """Delete wrong bytes; the reasons to keep the right ones stay."""
        self._checked.discard(sha256)
        self.path(sha256).unlink(missing_ok=True)

    def find_publishable(self, run_id: str, sha256: str) -> KeptFile | None:
        """The file, if it is here with the right bytes and may leave in this run."""
        found = (file for file in self._files(run_id) if file.sha256 == sha256 and file.kind in PUBLISHABLE)
        file = next(found, None)
        return file if file is not None and self.is_intact(sha256) else None

    def newest(self, run_id: str, kind: FileKind, before_round: int) -> KeptFile | None:
        """The newest file of a kind that is older than `before_round` and still here."""
        with self._journal.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM kept_files WHERE run_id = ? AND kind = ? AND round_number < ?"
                " ORDER BY round_number DESC",
                (run_id, kind, before_round),
            ).fetchall()
        return next((file for file in map(_kept, rows) if self.has(file.sha256)), None)

    def release(self, run_id: str, before_round: int, keep: Collection[str]) -> int:
        """Forget the files of rounds below `before_round` that are not in `keep`; how many were deleted."""
        with self._journal.transaction():
            files = self._files(run_id)
            for file in files:
                if file.round_number < before_round and file.sha256 not in keep and not _is_recent(file, files):
                    self._forget(file)
        return self._sweep()

    def finish_run(self, run_id: str) -> int:
        """The run is over for this node: updates go, models stay."""
        with self._journal.transaction():
            files = [file for file in self._files(run_id) if file.kind is FileKind.UPDATE]
            for file in files:
                self._forget(file)
        return self._sweep()

    def remove_parts(self) -> None:
        """Delete half-finished files. Only while nothing is being downloaded."""
        for path in self._unfinished():
            path.unlink(missing_ok=True)

    def remove_orphans(self) -> None:
        """Delete what an earlier life forgot, and half-finished files; a download that goes on keeps what it has.

        Whole files that the journal never spoke of stay: an admin lays initial weights here.
        """
        self._sweep()
        kept = self.kept()
        for path in self._unfinished():
            if path.suffix != ".part" or path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)

    def kept(self) -> frozenset[str]:
        """Digests of all files there is a reason to keep, here or still on their way."""
        with self._journal.transaction() as connection:
            return frozenset(row["sha256"] for row in connection.execute("SELECT sha256 FROM kept_files"))

    def _unfinished(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.suffix != ".safetensors"]

    def _files(self, run_id: str) -> list[KeptFile]:
        with self._journal.transaction() as connection:
            rows = connection.execute("SELECT * FROM kept_files WHERE run_id = ?", (run_id,)).fetchall()
        return [_kept(row) for row in rows]

    def _forget(self, file: KeptFile) -> None:
        with self._journal.transaction() as connection:
            connection.execute(
                "DELETE FROM kept_files WHERE sha256 = ? AND run_id = ? AND round_number = ? AND kind = ?",
                (file.sha256, file.run_id, file.round_number, file.kind),
            )
            connection.execute("INSERT OR IGNORE INTO forgotten_files (sha256) VALUES (?)", (file.sha256,))

    def _sweep(self) -> int:
        """Delete the forgotten files for which no reason is left. After the commit: a crash leaves a file, never a gap.

        Each under the journal's lock, so that nobody records a reason between the look and the deletion. Their note
        goes when a power cut cannot bring them back any more.
        """
        with self._journal.transaction() as connection:
            forgotten = [row["sha256"] for row in connection.execute("SELECT sha256 FROM forgotten_files")]
        if not forgotten:
            return 0
        num_deleted = sum(self._delete_unless_wanted(sha256) for sha256 in sorted(forgotten))
        fsync(self.folder)
        with self._journal.transaction() as connection:
            connection.executemany("DELETE FROM forgotten_files WHERE sha256 = ?", [(sha256,) for sha256 in forgotten])
        return num_deleted

    def _delete_unless_wanted(self, sha256: str) -> bool:
        """Whether there was a whole file to delete."""
        with self._journal.transaction() as connection:
            if connection.execute("SELECT 1 FROM kept_files WHERE sha256 = ?", (sha256,)).fetchone() is not None:
                return False
            local_part(self.path(sha256)).unlink(missing_ok=True)
            is_here = self.has(sha256)
            self.discard(sha256)
            return is_here


def _is_recent(file: KeptFile, files: Collection[KeptFile]) -> bool:
    """Whether a model is among the newest two of its kind: while round r is under way, r - 1 may be needed again."""
    newest = sorted({other.round_number for other in files if other.kind is file.kind})[-2:]
    return file.kind is not FileKind.UPDATE and file.round_number in newest


def _kept(row: sqlite3.Row) -> KeptFile:
    return KeptFile(row["sha256"], row["run_id"], row["round_number"], FileKind(row["kind"]), row["num_bytes"])
