"""Files of a run that nodes may have to find: which ones there are, who holds them, who wants them (rule 7).

    a node cannot find a file       -> it says so in its desired-state request   (wanted_files)
    a holder is asked to publish it -> its desired state carries a PublishRequest
    the holder has published it     -> it says so                                (published_files, FusedFile.on_hub)

A want that is newer than the publication means that the file could not be found where it should lie: it is asked for
again.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BindParameter, Select, and_, bindparam, or_, select, union
from sqlalchemy.orm import Session

from coordinator.rounds import repository
from coordinator.rounds.errors import FileUnknownError, NotAMemberError
from coordinator.rounds.moves import Act
from coordinator.tables import (
    MemberRow,
    NodeRow,
    ParticipationRow,
    PublishedFileRow,
    RoundRow,
    RunRow,
    WantedFileRow,
)
from hsl_model.protocol.messages import FusedFile, PublishedReport
from hsl_model.protocol.states import MembershipStatus, NodeStatus

WANT_AGAIN_S = 60.0  # a file that is still being fetched must not be asked for anew with every poll
NEXT_HOLDER_S = 60.0  # a holder that does not answer must not keep the others from being asked
_IS_MEMBER = and_(MemberRow.status == MembershipStatus.ACCEPTED, NodeRow.status == NodeStatus.ENROLLED)


@dataclass(frozen=True)
class Wanted:
    """A file that somebody misses, since when, who misses it, and who could publish it (nearest first)."""

    run_id: str
    file_sha256: str
    since: datetime
    by: tuple[str, ...]
    holders: tuple[str, ...]


@dataclass(frozen=True)
class Shelf:
    """The models that a run's members keep, and from which the newest round starts."""

    start: FusedFile | None = None  # the newest fused model; for methods without a common one, the initial weights
    initial: FusedFile | None = None
    fused: FusedFile | None = None  # the newest round's, once its fusers agree
    keep: tuple[str, ...] = ()
    release_before: int = 0


def shelf(session: Session, run: RunRow, newest: RoundRow) -> Shelf:
    """Initial weights, best model, newest model; all other files of rounds below `release_before` may go.

    The updates of the round before are kept as well: a member that was late in it may still be fusing them.
    """
    previous = newest.round_number - 1
    numbers = [0, previous, newest.round_number, run.best_round or 0]
    rows = session.execute(_FUSED_ROUNDS, {"run_id": run.run_id, "numbers": numbers}).all()
    on_hub = _on_hub(session, run.run_id, [row.fused_file_sha256 for row in rows])
    models = {
        row.round_number: FusedFile(
            round_number=row.round_number,
            fused_digest=row.fused_digest,
            file_sha256=row.fused_file_sha256,
            file_bytes=row.fused_file_bytes,
            on_hub=on_hub.get(row.fused_file_sha256, ()),
        )
        for row in rows
    }
    initial = models.get(0)
    return Shelf(
        start=models.get(previous, initial) if newest.round_number > 0 else None,
        initial=initial,
        fused=models.get(newest.round_number),
        keep=tuple(sorted({model.file_sha256 for model in models.values()})),
        release_before=max(0, previous),
    )


def _on_hub(session: Session, run_id: str, files: Collection[str]) -> dict[str, tuple[str, ...]]:
    """File -> enrolled nodes that published it, or announced the very same bytes (round 0's initial weights)."""
    if not files:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for file_sha256, node_id in session.execute(_ON_HUB, {"run_id": run_id, "files": list(files)}):
        found[file_sha256] = (*found.get(file_sha256, ()), node_id)
    return found


def _hub_query() -> Select[str, str]:
    files: BindParameter[str] = bindparam("files", expanding=True)
    run_id: BindParameter[str] = bindparam("run_id")
    published = select(PublishedFileRow.file_sha256, PublishedFileRow.node_id).where(
        PublishedFileRow.run_id == run_id, PublishedFileRow.file_sha256.in_(files)
    )
    announced = select(ParticipationRow.update_sha256, ParticipationRow.node_id).where(
        ParticipationRow.run_id == run_id,
        ParticipationRow.round_number == 0,
        ParticipationRow.update_sha256.in_(files),
    )
    both = union(published, announced).subquery()
    return (
        select(both.c.file_sha256, both.c.node_id)
        .join(NodeRow, and_(NodeRow.node_id == both.c.node_id, NodeRow.status == NodeStatus.ENROLLED))
        .order_by(both.c.file_sha256, both.c.node_id)
    )


_ON_HUB = _hub_query()
_FUSED_ROUNDS = select(
    RoundRow.round_number, RoundRow.fused_digest, RoundRow.fused_file_sha256, RoundRow.fused_file_bytes
).where(
    RoundRow.run_id == bindparam("run_id"),
    RoundRow.round_number.in_(bindparam("numbers", expanding=True)),
    RoundRow.fused_file_sha256.is_not(None),
)


def want(act: Act, node_id: str, run_ids: Sequence[str], missing: Collection[str]) -> None:
    """Remember exactly what this node misses now, in the runs it is a member of."""
    held = act.session.scalars(select(WantedFileRow).where(WantedFileRow.node_id == node_id)).all()
    for row in held:
        if row.file_sha256 not in missing:
            act.session.delete(row)
    for run_id in run_ids:
        for file_sha256 in sorted(missing):
            _want_one(act, node_id, run_id, file_sha256)
    act.session.flush()


def _want_one(act: Act, node_id: str, run_id: str, file_sha256: str) -> None:
    if _ledger_bytes(act.session, run_id, file_sha256) is None:
        return
    row = act.session.get(WantedFileRow, (run_id, file_sha256, node_id))
    if row is None:
        act.session.add(WantedFileRow(run_id=run_id, file_sha256=file_sha256, node_id=node_id, at=act.now))
        act.note("file.wanted", run_id, node_id=node_id, file_sha256=file_sha256)
    elif was_in_vain(act.session, row, act.now):
        row.at = act.now


def was_in_vain(session: Session, row: WantedFileRow, now: datetime) -> bool:
    """It was published after it was wanted, some time has passed, and the node still does not have it."""
    newest = session.scalar(
        select(PublishedFileRow.at)
        .where(PublishedFileRow.run_id == row.run_id, PublishedFileRow.file_sha256 == row.file_sha256)
        .order_by(PublishedFileRow.at.desc())
        .limit(1)
    )
    return newest is not None and newest >= row.at and (now - newest).total_seconds() > WANT_AGAIN_S


def published(act: Act, node_id: str, said: PublishedReport) -> None:
    """A node has put a file of the ledger into its folder."""
    member = act.session.get(MemberRow, (said.run_id, node_id))
    if member is None or member.status != MembershipStatus.ACCEPTED:
        raise NotAMemberError(node_id=node_id, run_id=said.run_id)
    repository.lock_run(act.session, said.run_id)
    known_bytes = _ledger_bytes(act.session, said.run_id, said.file_sha256)
    if known_bytes is None and _has_just_fused(act.session, node_id, said):
        known_bytes = said.file_bytes
    if known_bytes != said.file_bytes:
        raise FileUnknownError(run_id=said.run_id, file_sha256=said.file_sha256, file_bytes=said.file_bytes)
    row = act.session.get(PublishedFileRow, (said.run_id, said.file_sha256, node_id), populate_existing=True)
    if row is None:
        row = PublishedFileRow(run_id=said.run_id, file_sha256=said.file_sha256, node_id=node_id)
        act.session.add(row)
        act.note("file.published", said.run_id, node_id=node_id, file_sha256=said.file_sha256)
    row.file_bytes, row.at = said.file_bytes, act.now
    act.session.flush()


def _has_just_fused(session: Session, node_id: str, said: PublishedReport) -> bool:
    """A fuser publishes before the others' digests have confirmed its own."""
    newest = repository.newest_round(session, said.run_id)
    row = newest and session.get(ParticipationRow, (said.run_id, newest.round_number, node_id))
    report = row.report if row else None
    return bool(report and (report["file_sha256"], report["file_bytes"]) == (said.file_sha256, said.file_bytes))


def unpublish(act: Act, run_id: str, file_sha256: str, node_id: str) -> bool:
    """It does not lie there, or with wrong bytes. False when nobody said that it did."""
    row = act.session.get(PublishedFileRow, (run_id, file_sha256, node_id))
    if row is None:
        return False
    act.session.delete(row)
    act.session.flush()
    return True


def is_wanted(session: Session, run_id: str, file_sha256: str) -> bool:
    return any(wanted.file_sha256 == file_sha256 for wanted in wanted_in(session, run_id))


def _ledger_bytes(session: Session, run_id: str, file_sha256: str) -> int | None:
    """Size of a fused model or accepted update of this run; None when the ledger has no such file."""
    fused = session.scalar(
        select(RoundRow.fused_file_bytes)
        .where(RoundRow.run_id == run_id, RoundRow.fused_file_sha256 == file_sha256)
        .limit(1)
    )
    if fused is not None:
        return fused
    return session.scalar(
        select(ParticipationRow.update_bytes)
        .where(ParticipationRow.run_id == run_id, ParticipationRow.update_sha256 == file_sha256)
        .limit(1)
    )


_WANTS = (
    select(WantedFileRow)
    .join(MemberRow, and_(MemberRow.run_id == WantedFileRow.run_id, MemberRow.node_id == WantedFileRow.node_id))
    .join(NodeRow, NodeRow.node_id == WantedFileRow.node_id)
    .where(WantedFileRow.run_id == bindparam("run_id"), _IS_MEMBER)
    .order_by(WantedFileRow.file_sha256, WantedFileRow.node_id)
)


def wanted_in(session: Session, run_id: str) -> tuple[Wanted, ...]:
    """What members want and nobody has published (again) since, with its holders."""
    wants: dict[str, list[WantedFileRow]] = {}
    for row in session.scalars(_WANTS, {"run_id": run_id}):
        wants.setdefault(row.file_sha256, []).append(row)
    found = []
    for file_sha256, rows in wants.items():
        since = max(row.at for row in rows)
        published = _published_at(session, run_id, file_sha256)
        if any(at >= since for at in published.values()):
            continue
        by = tuple(row.node_id for row in rows)
        holders = [node for node in _holders(session, run_id, file_sha256) if node not in by]
        holders.sort(key=lambda node: node not in published)  # whoever published it once is asked first
        found.append(Wanted(run_id, file_sha256, since, by, tuple(holders)))
    return tuple(found)


def _published_at(session: Session, run_id: str, file_sha256: str) -> dict[str, datetime]:
    rows = session.scalars(
        select(PublishedFileRow).where(PublishedFileRow.run_id == run_id, PublishedFileRow.file_sha256 == file_sha256)
    )
    return {row.node_id: row.at for row in rows}


def _holders(session: Session, run_id: str, file_sha256: str) -> Sequence[str]:
    """Members, sorted, that made this file, fused it, published it, or trained from it in the round after."""
    holding = {*_published_at(session, run_id, file_sha256), *_owners(session, run_id, file_sha256)}
    round_number = session.scalar(
        select(RoundRow.round_number)
        .where(RoundRow.run_id == run_id, RoundRow.fused_file_sha256 == file_sha256)
        .limit(1)
    )
    if round_number is not None:
        rows = session.execute(
            select(ParticipationRow.node_id, ParticipationRow.round_number, ParticipationRow.report).where(
                ParticipationRow.run_id == run_id,
                ParticipationRow.round_number.in_((round_number, round_number + 1)),
                or_(ParticipationRow.report.is_not(None), ParticipationRow.update_sha256.is_not(None)),
            )
        )
        for node_id, number, said in rows:
            if number > round_number or (said is not None and said["file_sha256"] == file_sha256):
                holding.add(node_id)
    query = (
        select(MemberRow.node_id)
        .join(NodeRow, NodeRow.node_id == MemberRow.node_id)
        .where(MemberRow.run_id == run_id, MemberRow.node_id.in_(holding), _IS_MEMBER)
        .order_by(MemberRow.node_id)
    )
    return session.scalars(query).all()


def _owners(session: Session, run_id: str, file_sha256: str) -> Iterable[str]:
    return session.scalars(
        select(ParticipationRow.node_id).where(
            ParticipationRow.run_id == run_id, ParticipationRow.update_sha256 == file_sha256
        )
    )


def asked(wanted: Wanted, online: Collection[str], now: datetime) -> tuple[str, ...]:
    """Who is asked to publish now: the first live holder, and one more for each time nobody answered."""
    candidates = sorted(wanted.holders, key=lambda node: node not in online)  # stable: nearest first among equals
    num_asked = 1 + int((now - wanted.since).total_seconds() // NEXT_HOLDER_S)
    return tuple(candidates[:num_asked])
