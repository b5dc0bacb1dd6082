"""Sites that remember what they have seen of the ledger, as agents do, and a coordinator that can be restored."""

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text

from hsl_model.protocol import transport
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.ledger import Mark, RecordReport, RoundRecord, SignedRecord, parse_mark, sign_record
from hsl_model.protocol.manifest import SignedManifest
from hsl_model.protocol.messages import Assignment, DesiredRequest, DesiredState, FusionReport, Seen
from tests.coordinator.conftest import open_alliance
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import NODES, Federation, Site


@dataclass
class RememberingSite(Site):
    """`signed` is what lies on the hub: every manifest, of everybody."""

    signed: dict[str, SignedManifest] = field(default_factory=dict)
    mark: Mark | None = None
    rounds: dict[str, int] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    records: dict[tuple[str, int], SignedRecord] = field(default_factory=dict)
    assigned: list[int] = field(default_factory=list)

    @property
    def seen(self) -> Seen | None:
        if self.mark is None:
            return None
        return Seen(**vars(self.mark), rounds=self.rounds, revoked=tuple(sorted(self.revoked)))

    def poll(self) -> Any:
        return self._heard(self.speaker.post(transport.DESIRED, DesiredRequest(wait_s=0, seen=self.seen)))

    def say(self, path: str, body: Any = None) -> Any:
        return self._heard(super().say(path, body))

    def _heard(self, reply: Any) -> Any:
        mark = parse_mark(reply.headers[transport.LEDGER_HEADER])
        assert mark is not None
        if self.mark is None or mark.generation > self.mark.generation:
            self.mark, self.rounds, self.revoked = mark, {}, set()
        elif (mark.generation, mark.event_id) > (self.mark.generation, self.mark.event_id):
            self.mark = mark
        return reply

    def desired(self, missing: tuple[str, ...] = ()) -> DesiredState:
        state = DesiredState.model_validate_json(self.ok(self.poll()).content)
        found = state.assignment
        if state.recovery is None and found is not None:
            self.assigned.append(found.round_number)
            self.rounds[found.run_id] = max(found.round_number, self.rounds.get(found.run_id, 0))
            self.revoked |= set(state.revoked)
        return state

    def announce_signed(self, wish: Assignment, signed: SignedManifest) -> Any:
        self.signed[signed.sha256] = signed
        return super().announce_signed(wish, signed)

    def fusion(self, wish: Assignment, *, auc: float | None = 0.7, **changes: Any) -> Any:
        reply = super().fusion(wish, auc=auc, **changes)
        report = self.sent[-1][1]
        assert isinstance(report, FusionReport)
        self.remember(wish, report)
        return reply

    def remember(self, wish: Assignment, report: FusionReport, **changes: Any) -> None:
        assert wish.plan is not None
        record = RoundRecord(
            run_id=wish.run_id,
            round_number=wish.round_number,
            node_id=self.node_id,
            plan=wish.plan,
            report=report,
            manifests=tuple(self.signed[entry.manifest_sha256] for entry in wish.plan.entries),
        ).model_copy(update=changes)
        self.records[wish.run_id, wish.round_number] = sign_record(record, self.speaker.signing_key)

    def send_records(self) -> None:
        wanted = self.desired().recovery
        assert wanted is not None
        for (run_id, number), signed in sorted(self.records.items()):
            if number >= wanted.records_from.get(run_id, 10**6):
                self.ok(self.say(transport.RECORDS, RecordReport(signed=signed, is_last=False)))
        self.ok(self.say(transport.RECORDS, RecordReport(is_last=True)))


def remembering(alliance: Alliance) -> Federation:
    signed: dict[str, SignedManifest] = {}
    sites = {node: RememberingSite(alliance.enrol(node), 60 * (i + 1), signed=signed) for i, node in enumerate(NODES)}
    return Federation(alliance, sites)


class Restorable:
    """A federation whose coordinator can be backed up while it runs, and started again on the backup."""

    def __init__(self, url: str, folder: Path, clock: ManualClock, hub: MemoryHub) -> None:
        self._folder, self._clock, self._hub = folder, clock, hub
        self._running, self._clean = ExitStack(), ExitStack()
        self.url = url
        self.alliance = self._running.enter_context(open_alliance(url, clock, hub))
        self.federation = remembering(self.alliance)
        self.backups = 0

    def site(self, node_id: str) -> RememberingSite:
        site = self.federation[node_id]
        assert isinstance(site, RememberingSite)
        return site

    def backup(self) -> str:
        """A copy as it is, made while the coordinator runs; its URL."""
        self.backups += 1
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            target = self._folder / f"backup-{self.backups}.db"
            with closing(sqlite3.connect(str(url.database))) as source, closing(sqlite3.connect(target)) as copy:
                source.backup(copy)
            return f"sqlite:///{target}"
        copy_url = url.set(database=f"{url.database}_backup_{self.backups}")
        self.alliance.kernel.database.close()  # a template has no other visitors
        self._on_server(f"DROP DATABASE IF EXISTS {copy_url.database}")
        self._on_server(f"CREATE DATABASE {copy_url.database} TEMPLATE {url.database}")
        self._clean.callback(self._on_server, f"DROP DATABASE {copy_url.database}")
        return copy_url.render_as_string(hide_password=False)

    def _on_server(self, statement: str) -> None:
        engine = create_engine(make_url(self.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def restore(self, url: str, prepare: Callable[[], None] = lambda: None) -> None:
        """Stop the coordinator, start it on the backup."""
        self._running.close()
        prepare()
        self.alliance = self._running.enter_context(open_alliance(url, self._clock, self._hub))
        self.federation.alliance = self.alliance
        for site in self.federation.sites.values():
            site.speaker.http = self.alliance.http

    def close(self) -> None:
        self._running.close()
        self._clean.close()
