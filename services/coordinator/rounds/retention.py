"""What may go from the hub: files that no run needs any more, and what a revoked node left half-done.

                       node enrolled                          node revoked, and cut
    tensors            when every run that knows them has released them (`files.shelf`), and nobody misses them;
                       of a fuser too, also where its digest was not the others'
    manifests          with their round
    unknown tensors    stay: about to be announced            go
    parts              stay: the agent tidies its own         go

Sites keep the newest and the best model for ever by themselves; what is needed here again is published again (rule 7).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, bindparam, delete, func, select
from sqlalchemy.orm import Session

from coordinator.events import service as events
from coordinator.rounds import repository
from coordinator.rounds.files import Shelf, shelf
from coordinator.tables import NodeRow, ParticipationRow, PublishedFileRow, RoundRow, RunRow, WantedFileRow
from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError
from hsl_model.protocol.states import NodeStatus

# A fuser's file of a plan that was superseded, or one that deviated, belongs to the round it was published in.
_PUBLISHED = (
    select(PublishedFileRow.file_sha256, PublishedFileRow.run_id, func.max(RoundRow.round_number))
    .join(RoundRow, and_(RoundRow.run_id == PublishedFileRow.run_id, RoundRow.opened_at <= PublishedFileRow.at))
    .where(PublishedFileRow.file_sha256.in_(bindparam("files", expanding=True)))
    .group_by(PublishedFileRow.file_sha256, PublishedFileRow.run_id)
)


@dataclass(frozen=True)
class _Ledger:
    """What the tables know of some files."""

    shelves: Mapping[str, Shelf]  # run -> what it keeps
    mentions: Mapping[str, Collection[tuple[str, int]]]  # file -> runs and rounds it belongs to
    wanted: Collection[str]

    def is_over(self, run_id: str, round_number: int) -> bool:
        """Whether this run has released that round's files."""
        held = self.shelves.get(run_id)
        return held is not None and round_number < held.release_before

    def is_released(self, sha256: str) -> bool:
        """Known, and needed by none of the runs that know it."""
        mentions = self.mentions.get(sha256, ())
        if not mentions or sha256 in self.wanted:
            return False
        return all(self.is_over(*mention) and sha256 not in self.shelves[mention[0]].keep for mention in mentions)


def released(session: Session, node_id: str, names: Iterable[str]) -> tuple[str, ...]:
    """Which of these names in a node's folder on the hub may be deleted now."""
    status = session.scalar(select(NodeRow.status).where(NodeRow.node_id == node_id, NodeRow.hub_cut_at.is_not(None)))
    is_gone = status == NodeStatus.REVOKED
    found = {name: path for name in names if (path := _parsed(node_id, name)) is not None}
    ledger = _ledger(session, [path.sha256 for path in found.values()])
    return tuple(name for name, path in found.items() if _may_go(path, ledger, is_gone=is_gone))


def forget(session: Session, node_id: str, names: Collection[str], now: datetime) -> None:
    """They are gone from the hub: whoever misses one of them again is answered by publishing it again."""
    digests = {path.sha256 for name in names if (path := _parsed(node_id, name)) is not None}
    session.execute(
        delete(PublishedFileRow).where(PublishedFileRow.node_id == node_id, PublishedFileRow.file_sha256.in_(digests))
    )
    events.append(session, now, "hub.released", events.TICK, node_id=node_id, num_files=len(names))


def _may_go(path: paths.TensorPath | paths.ManifestPath, ledger: _Ledger, *, is_gone: bool) -> bool:
    if isinstance(path, paths.ManifestPath):
        return ledger.is_over(path.run_id, path.round_number) or (is_gone and path.run_id not in ledger.shelves)
    if path.is_part:
        return is_gone
    return ledger.is_released(path.sha256) or (is_gone and path.sha256 not in ledger.mentions)


def _parsed(node_id: str, name: str) -> paths.TensorPath | paths.ManifestPath | None:
    try:
        return paths.parse(f"{paths.node_folder(node_id)}/{name}")
    except RemotePathError:
        return None  # nothing of ours: whoever put it there takes it away


def _ledger(session: Session, digests: Collection[str]) -> _Ledger:
    shelves = {}
    for run in session.scalars(select(RunRow)):
        newest = repository.newest_round(session, run.run_id)
        shelves[run.run_id] = Shelf() if newest is None else shelf(session, run, newest)
    updates = select(ParticipationRow.update_sha256, ParticipationRow.run_id, ParticipationRow.round_number).where(
        ParticipationRow.update_sha256.in_(digests)
    )
    fused = select(RoundRow.fused_file_sha256, RoundRow.run_id, RoundRow.round_number).where(
        RoundRow.fused_file_sha256.in_(digests)
    )
    mentions: dict[str, set[tuple[str, int]]] = {}
    for query in (updates, fused):
        for sha256, run_id, round_number in session.execute(query):
            mentions.setdefault(str(sha256), set()).add((run_id, round_number))
    unknown = set(digests) - set(mentions)
    for sha256, run_id, round_number in session.execute(_PUBLISHED, {"files": list(unknown)}):
        mentions.setdefault(str(sha256), set()).add((run_id, round_number))
    wanted = session.scalars(select(WantedFileRow.file_sha256).where(WantedFileRow.file_sha256.in_(digests)))
    return _Ledger(shelves, mentions, set(wanted))
