"""Random schedules of messages, repeated, stale and wrong ones among them, with time passing between.

Safety after every step: what the tables say is possible, and the events tell exactly how it came about.
Liveness at the end: once everybody behaves, the run ends.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from coordinator.tables import EventRow, MemberRow, ParticipationRow, RoundRow, RunRow
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import Assignment, FusionPlan, RefusalKind
from hsl_model.protocol.states import (
    MEMBERSHIP_TRANSITIONS,
    PARTICIPATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    RUN_TRANSITIONS,
    NodePhase,
    RoundStatus,
)
from tests.coordinator.rounds.direct import DirectAlliance, directly_enrolled
from tests.coordinator.rounds.sites import NODES, Federation, Site, sha

TABLES: dict[str, Any] = {
    "run": RUN_TRANSITIONS,
    "round": ROUND_TRANSITIONS,
    "participation": PARTICIPATION_TRANSITIONS,
    "member": MEMBERSHIP_TRANSITIONS,
}


class Play:
    """One schedule: sites that know what they were last told, which may be long ago."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.known: dict[str, Assignment] = {}

    def poll(self, site: Site, _: int) -> None:
        wish = site.desired().assignment
        if wish is not None:
            self.known[site.node_id] = wish

    def behave(self, site: Site, _: int) -> None:
        """What an agent would do next."""
        self.poll(site, 0)
        if (wish := self.told(site)) is None:
            return
        if wish.round_status == "open" and wish.accepted_sha256 is None:
            self.announce(site, 1)
        elif wish.plan is not None:
            self.report(site, 2)

    def told(self, site: Site) -> Assignment | None:
        return self.known.get(site.node_id)

    def announce(self, site: Site, arg: int) -> None:
        if (wish := self.told(site)) and (wish.round_number > 0 or wish.is_initialiser):
            changes = {"update_sha256": sha("other", wish.round_number, arg)} if arg == 0 else {}
            self.check(site.announce(wish, **changes))

    def report(self, site: Site, arg: int) -> None:
        if (wish := self.told(site)) and wish.plan is not None:
            changes: dict[str, Any] = {"validation": None} if arg == 1 else {}
            if arg == 0:
                changes = {"fused_digest": sha("wrong", site.node_id)}
            self.check(self.report_of(site, wish)(wish, **changes))

    @staticmethod
    def report_of(site: Site, wish: Assignment) -> Callable[..., Any]:
        """Also a report that nobody who waits for the fusers would make."""
        assert wish.plan is not None
        return site.fuse if wish.fused is not None or wish.plan.is_fused_by(site.node_id) else site.fusion

    def refuse(self, site: Site, arg: int) -> None:
        if (wish := self.told(site)) and wish.plan is not None:
            kind = RefusalKind.CONTENT if arg % 2 else RefusalKind.MISSING
            names = tuple(self.federation.sites)
            self.check(site.refuse(wish, names[arg % len(names)], kind))
            if wish.fused is not None:
                self.check(site.refuse(wish, wish.plan.fusers[0], kind, update_sha256=wish.fused.file_sha256))

    def work(self, site: Site, arg: int) -> None:
        phase = (NodePhase.TRAINING, NodePhase.UPLOADING, NodePhase.FAILED, NodePhase.WAITING)[arg % 4]
        self.check(site.heartbeat(phase, self.told(site)))

    def repeat(self, site: Site, arg: int) -> None:
        if site.sent:
            self.check(site.speaker.post(*site.sent[-1 - arg % len(site.sent)]))

    def misses(self, site: Site, arg: int) -> None:
        if (wish := self.told(site)) and wish.start is not None:
            site.desired(missing=(wish.start.file_sha256,) if arg % 2 else ())

    def publishes(self, site: Site, _: int) -> None:
        for request in site.desired().publish:
            self.check(site.published(request.run_id, request.file_sha256))

    def leave(self, site: Site, arg: int) -> None:
        if arg == 0:
            self.check(site.withdraw(self.federation.run_id))

    def time(self, _: Site, arg: int) -> None:
        self.federation.alliance.beat((0, 1, 100, 700)[arg % 4])

    def admin(self, _: Site, arg: int) -> None:
        verb = ("pause", "resume", "start")[arg % 3]
        self.federation.alliance.admin.post(f"/api/v1/runs/{self.federation.run_id}/{verb}")

    @staticmethod
    def check(reply: Any) -> None:
        assert reply.status_code in (200, 204, 403, 404, 409, 422), reply.text

    def cooperate(self) -> None:
        """Everybody is back, behaves, and has time."""
        for _ in range(60):
            if self.federation.run.status not in ("running", "paused"):
                return
            if self.federation.run.status == "paused":
                self.federation.move("resume")
            for site in self.federation.sites.values():
                site.desired()  # misses nothing
            for site, wish in self.federation.wishes():
                if wish.round_status == "open" and wish.accepted_sha256 is None:
                    site.heartbeat(NodePhase.WAITING, wish)
                    if wish.round_number > 0 or wish.is_initialiser:
                        self.check(site.announce(wish))
                if wish.republish:
                    signed = site.manifest(wish, update_sha256=wish.accepted_sha256)
                    self.check(site.announce_signed(wish, signed))
                if wish.plan is not None and (wish.plan.is_fused_by(site.node_id) or wish.fused is not None):
                    self.check(site.fuse(wish))
            self.federation.alliance.beat(400)
        raise AssertionError(f"the run does not end: {self.federation.run.waiting}")


ACTIONS: tuple[Callable[[Play, Site, int], None], ...] = (
    *(Play.behave,) * 12,
    Play.poll,
    Play.announce,
    Play.announce,
    Play.report,
    Play.report,
    Play.refuse,
    Play.work,
    Play.repeat,
    Play.repeat,
    Play.misses,
    Play.publishes,
    Play.leave,
    Play.time,
    Play.time,
    Play.admin,
)
SIX = tuple(f"node-{letter}" for letter in "abcdef")
STEPS = st.tuples(st.sampled_from(ACTIONS), st.integers(0, len(SIX) - 1), st.integers(0, 11))


def check_tables(federation: Federation) -> None:
    """What must be true at any moment."""
    with federation.alliance.kernel.snapshot() as session:
        rounds = session.scalars(select(RoundRow).order_by(RoundRow.round_number)).all()
        parts = session.scalars(select(ParticipationRow)).all()
        records = session.scalars(select(EventRow).where(EventRow.kind == "round.participation_record")).all()
    assert [row.round_number for row in rounds] == list(range(len(rounds)))
    assert all(row.status == RoundStatus.COMPLETED for row in rounds[:-1])
    recorded = {(event.round_number, event.node_id) for event in records}
    for row in rounds:
        members = {part.node_id: part for part in parts if part.round_number == row.round_number}
        if row.status == RoundStatus.COMPLETED:
            assert {(row.round_number, node_id) for node_id in members} <= recorded
            agreeing = {part.report["fused_digest"] for part in members.values() if part.status == "fused"}
            assert agreeing == {row.fused_digest}
        if row.plan is not None:
            entries = FusionPlan.model_validate(row.plan).entries
            names = [entry.node_id for entry in entries]
            assert names == sorted(set(names))
            for entry in entries:
                part = members[entry.node_id]
                assert part.update_sha256 == entry.update_sha256
                assert part.manifest["manifest"]["round_number"] == row.round_number
                if row.round_number > 0 and row.status == RoundStatus.FUSING:
                    assert part.status in ("fusing", "fused", "excluded")


def check_replay(federation: Federation) -> None:
    """The events alone give every status, and only moves of the transition tables."""
    statuses: dict[tuple[Any, ...], str] = {}
    for event in federation.alliance.events():
        what, _, target = event.kind.partition(".")
        if what not in TABLES or target not in set(map(str, TABLES[what])):
            continue
        key = (what, event.run_id, event.round_number, event.node_id)
        if key in statuses:
            source = statuses[key]
            assert event.data["source"] == source, (key, event.data, source)
            assert target in TABLES[what][next(status for status in TABLES[what] if status == source)]
        statuses[key] = target
    with federation.alliance.kernel.snapshot() as session:
        stored: dict[tuple[Any, ...], str] = {}
        for run in session.scalars(select(RunRow)):
            stored["run", run.run_id, None, None] = run.status
        for row in session.scalars(select(RoundRow)):
            stored["round", row.run_id, row.round_number, None] = row.status
        for part in session.scalars(select(ParticipationRow)):
            stored["participation", part.run_id, part.round_number, part.node_id] = part.status
        for member in session.scalars(select(MemberRow)):
            stored["member", member.run_id, None, member.node_id] = member.status
    assert statuses == stored


def play(template: Path, folder: Path, steps: list[tuple[Callable[..., None], int, int]], changes: dict) -> None:
    path = folder / "schedule.db"
    for old in folder.glob("schedule.db*"):
        old.unlink()
    shutil.copyfile(template, path)
    names = changes.get("nodes", NODES)
    federation = directly_enrolled(f"sqlite:///{path}", ManualClock(), names)
    assert isinstance(federation.alliance, DirectAlliance)
    try:
        schedule = Play(federation)
        federation.begin(num_rounds=2, **changes)
        for action, index, arg in steps:
            action(schedule, federation[names[index % len(names)]], arg)
            check_tables(federation)
        check_replay(federation)
        schedule.cooperate()
        check_tables(federation)
        check_replay(federation)
    finally:
        federation.alliance.close()


CONFIGS = st.sampled_from(
    [
        {},
        {"round_deadline_s": 600.0, "report_deadline_s": 600.0},
        {"quorum": {"min_nodes": 1}, "round_deadline_s": 600.0, "report_deadline_s": 600.0},
        {"method": {"name": "personalised"}, "report_deadline_s": 600.0},
        {"method": {"name": "local"}},
    ]
)
WITH_FUSERS = st.sampled_from(
    [
        {"nodes": SIX, "fusers": 2},
        {"nodes": SIX, "fusers": 2, "round_deadline_s": 600.0, "report_deadline_s": 600.0},
        {"nodes": SIX[:4], "fusers": 2, "quorum": {"min_nodes": 1}, "report_deadline_s": 600.0},
        {"nodes": SIX, "fusers": 3, "report_deadline_s": 600.0},
    ]
)
SCHEDULES = st.lists(STEPS, min_size=10, max_size=40)
ONCE = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@settings(ONCE, max_examples=15)
@given(steps=SCHEDULES, changes=CONFIGS)
def test_any_schedule_is_safe_and_ends(sqlite_template: Path, tmp_path: Path, steps: list, changes: dict) -> None:
    play(sqlite_template, tmp_path, steps, changes)


@settings(ONCE, max_examples=6)
@given(steps=st.lists(STEPS, min_size=30, max_size=60), changes=WITH_FUSERS)
def test_with_fusers_too(sqlite_template: Path, tmp_path: Path, steps: list, changes: dict) -> None:
    play(sqlite_template, tmp_path, steps, changes)


@pytest.mark.long
@settings(ONCE, max_examples=600)
@given(steps=st.lists(STEPS, min_size=20, max_size=120), changes=CONFIGS | WITH_FUSERS)
def test_many_schedules_are_safe_and_end(sqlite_template: Path, tmp_path: Path, steps: list, changes: dict) -> None:
    play(sqlite_template, tmp_path, steps, changes)
