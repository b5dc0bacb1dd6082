"""Back up while a run goes on, run two more rounds, revoke a node, restore, recover: on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.ledger import sign_record
from hsl_model.protocol.manifest import SignedManifest
from hsl_model.protocol.messages import FusionReport
from hsl_model.protocol.transport import API, ENROL
from hsl_model.protocol.views import LedgerView, RecoveredView
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Keys
from tests.coordinator.ledger.remembering import RememberingSite, Restorable
from tests.coordinator.rounds.sites import Site, sha


@pytest.fixture
def restorable(database_url: str, tmp_path: Path, clock: ManualClock, hub: MemoryHub) -> Iterator[Restorable]:
    restorable = Restorable(database_url, tmp_path, clock, hub)
    yield restorable
    restorable.close()


@pytest.fixture
def on_sqlite(sqlite_url: str, tmp_path: Path, clock: ManualClock, hub: MemoryHub) -> Iterator[Restorable]:
    """For what does not depend on the database."""
    restorable = Restorable(sqlite_url, tmp_path, clock, hub)
    yield restorable
    restorable.close()


def ledger(restorable: Restorable) -> LedgerView:
    return LedgerView.model_validate_json(restorable.alliance.admin.get(f"{API}/ledger").content)


def ask_to_recover(restorable: Restorable, **changes: Any) -> Any:
    body = {"generation": ledger(restorable).generation, **changes}
    return restorable.alliance.admin.post(f"{API}/ledger/recover", body)


def recover(restorable: Restorable, **changes: Any) -> RecoveredView:
    reply = ask_to_recover(restorable, **changes)
    assert reply.status_code == 200, reply.text
    return RecoveredView.model_validate_json(reply.content)


def send_records(restorable: Restorable, *nodes: str) -> None:
    for node_id in nodes:
        restorable.site(node_id).send_records()


def two_rounds_after_a_backup(restorable: Restorable) -> str:
    """Round 3 is open, and one of three has announced; the backup's URL. Afterwards round 5 is open."""
    federation = restorable.federation.begin(num_rounds=6).to_round(3)
    first, wish = federation.wishes()[0]
    first.ok(first.announce(wish))
    backup = restorable.backup()
    federation.to_round(5)
    for site in federation.sites.values():
        site.desired()
    return backup


def test_the_run_goes_on_with_the_newest_model_and_the_revoked_node_stays_out(restorable: Restorable) -> None:
    backup = two_rounds_after_a_backup(restorable)
    federation, revoked = restorable.federation, restorable.site("node-c")
    before = [federation.round(number) for number in range(5)]
    federation.revoke("node-c")
    for node_id in ("node-a", "node-b"):
        assert restorable.site(node_id).desired().revoked == ("node-c",)
    restorable.restore(backup)
    revoked.speaker.http = restorable.alliance.http

    # Whoever is ahead is noticed with the first poll; nothing goes on, and the revoked node does not come back.
    seen = restorable.site("node-a").seen
    assert seen is not None
    state = restorable.site("node-a").desired()
    assert state.recovery is not None
    assert state.recovery.records_from == {federation.run_id: 3}
    run = federation.run
    assert (run.status, run.reason) == ("paused", "ledger_restored")
    assert f"node-a has seen event {seen.event_id} (the ledger ends with " in (run.waiting or "")
    assert f"round 5 of {run.run_id} (here 3)" in (run.waiting or "")
    assert "`hsl coordinator recover`" in (run.waiting or "")
    refused = revoked.poll()
    assert (refused.status_code, refused.json()["code"]) == (403, "node_suspended")
    restorable.alliance.hub.keys["node-c"] = "as on a hub that was restored too"
    restorable.alliance.beat()
    assert "node-c" not in restorable.alliance.hub.keys
    for verb in (f"runs/{run.run_id}/resume", "nodes/node-b/code"):
        reply = restorable.alliance.admin.post(f"{API}/{verb}")
        assert (reply.status_code, reply.json()["code"]) == (409, "ledger_held"), reply.text

    gap = ledger(restorable)
    assert (gap.is_held, gap.unheard) == (True, ("node-b", "node-c"))
    send_records(restorable, "node-a", "node-b")
    gap = ledger(restorable)
    assert [(one.node_id, one.seen_by) for one in gap.revoked] == [("node-c", ("node-a", "node-b"))]
    assert [(one.newest_round, one.newest_seen, one.replayable, one.obstacle) for one in gap.runs] == [
        (3, 5, (3, 4), None)
    ]
    assert all(one.has_answered and one.events_ahead > 0 for one in gap.nodes)

    done = recover(restorable)
    assert (done.generation, done.revoked, done.rounds) == (2, ("node-c",), {run.run_id: (3, 4)})
    assert done.to_resume == (run.run_id,)
    assert ask_to_recover(restorable).json()["code"] == "ledger_not_held"
    assert revoked.poll().json()["code"] == "node_revoked"
    for number in range(5):
        now, then = federation.round(number), before[number]
        assert (now.status, now.fused_digest, now.plan) == ("completed", then.fused_digest, then.plan)
    assert federation.statuses(4) == {"node-a": "fused", "node-b": "fused", "node-c": "excluded(no_record)"}
    kinds = restorable.alliance.event_kinds(run_id=run.run_id)
    assert kinds.count("round.recovered") == 2
    assert federation.run.status == "paused"

    # Nothing runs twice: after the recovery nobody is assigned to a round that all have completed.
    federation.move("resume")
    for node_id in ("node-a", "node-b"):
        restorable.site(node_id).assigned.clear()
    start = restorable.site("node-b").assignment().start
    assert start is not None
    assert start.fused_digest == before[4].fused_digest
    while federation.run.status == "running":
        federation.play_round()
    assert federation.run.status == "completed"
    assert {number for node_id in ("node-a", "node-b") for number in restorable.site(node_id).assigned} == {5, 6}
    assert federation.statuses(6) == {"node-a": "fused", "node-b": "fused"}


def test_a_round_that_two_fused_for_all_is_replayed_too(on_sqlite: Restorable) -> None:
    """Only who fused has the peers' manifests; nobody publishes a second time."""
    backup = two_rounds_after_a_backup(on_sqlite)
    for node_id, site in ((node_id, on_sqlite.site(node_id)) for node_id in on_sqlite.federation.sites):
        for key, signed in site.records.items():
            plan = signed.record.plan.model_copy(update={"fusers": ("node-a", "node-b")})
            own = tuple(one for one in signed.record.manifests if node_id in ("node-a", one.manifest.node_id))
            record = signed.record.model_copy(update={"plan": plan, "manifests": own})
            site.records[key] = sign_record(record, site.speaker.signing_key)
    on_sqlite.restore(backup)
    on_sqlite.site("node-a").desired()
    send_records(on_sqlite, "node-a", "node-b", "node-c")
    assert recover(on_sqlite).rounds == {on_sqlite.federation.run_id: (3, 4)}
    assert set(on_sqlite.federation.statuses(4).values()) == {"fused"}


def test_a_backup_that_nothing_happened_after_is_no_reason_to_stop(on_sqlite: Restorable) -> None:
    federation = on_sqlite.federation.begin().to_round(2)
    for site in federation.sites.values():
        site.desired()
    on_sqlite.restore(on_sqlite.backup())
    for site in federation.sites.values():
        assert site.desired().recovery is None
    assert federation.run.status == "running"
    assert ask_to_recover(on_sqlite).json()["code"] == "ledger_not_held"


def test_a_node_of_another_ledger_holds_up_nobody(on_sqlite: Restorable) -> None:
    on_sqlite.federation.begin()
    site = on_sqlite.site("node-a")
    site.desired()
    assert site.mark is not None
    site.mark = type(site.mark)("f" * 32, 7, 10**9)
    assert site.poll().status_code == 200
    assert not ledger(on_sqlite).is_held


def test_a_false_word_about_a_node_is_an_admins_to_judge(on_sqlite: Restorable) -> None:
    backup = two_rounds_after_a_backup(on_sqlite)
    on_sqlite.restore(backup)
    on_sqlite.site("node-a").revoked = {"node-b"}
    on_sqlite.site("node-a").desired()
    assert on_sqlite.site("node-b").poll().json()["code"] == "node_suspended"
    on_sqlite.alliance.beat()
    assert "node-b" not in on_sqlite.alliance.hub.keys
    assert recover(on_sqlite, not_revoked=["node-b"]).revoked == ()
    assert on_sqlite.site("node-b").poll().status_code == 200
    on_sqlite.alliance.beat()
    assert "node-b" in on_sqlite.alliance.hub.keys


def test_a_run_that_was_created_after_the_backup_is_named(on_sqlite: Restorable) -> None:
    federation = on_sqlite.federation
    backup, same_again = on_sqlite.backup(), on_sqlite.backup()
    federation.begin()
    for site in federation.sites.values():
        site.desired()
    on_sqlite.restore(backup)
    for site in federation.sites.values():
        site.desired()
    gap = ledger(on_sqlite)
    assert f"run {federation.run_id}, which is unknown here" in (gap.reason or "")
    assert [(one.run_id, one.name, one.seen_by) for one in gap.runs] == [
        (federation.run_id, None, ("node-a", "node-b", "node-c"))
    ]
    assert recover(on_sqlite).unknown_runs == (federation.run_id,)
    state = on_sqlite.site("node-a").desired()
    assert (state.generation, state.recovery, state.assignment) == (2, None, None)

    on_sqlite.restore(same_again)  # the same old copy once more: it does not know of the recovery either
    assert on_sqlite.site("node-a").desired().recovery is not None
    assert ledger(on_sqlite).reason == "node-a has seen generation 2 of the ledger, and this is generation 1."
    assert recover(on_sqlite).generation == 3


def test_a_node_that_enrolled_after_the_backup_comes_back_with_its_keys(on_sqlite: Restorable) -> None:
    backup = two_rounds_after_a_backup(on_sqlite)
    keys = Keys()
    newcomer = Site(on_sqlite.alliance.enrol("node-d", keys=keys))
    on_sqlite.restore(backup)
    newcomer.speaker.http = on_sqlite.alliance.http
    refused = newcomer.speaker.post(f"{API}/node/desired", {})
    assert (refused.status_code, refused.json()["code"]) == (401, "node_token_invalid")
    on_sqlite.site("node-a").desired()
    assert on_sqlite.alliance.admin.post(f"{API}/nodes", {"node_id": "node-d"}).json()["code"] == "ledger_held"
    recover(on_sqlite)
    assert on_sqlite.alliance.stranger.post(ENROL, keys.request(on_sqlite.alliance.add("node-d"))).status_code == 200


def resigned(site: RememberingSite, run_id: str, **changes: Any) -> None:
    """The node's record of round 4, changed and signed by it."""
    old = site.records[run_id, 4].record
    wish = on_paper(old)
    site.remember(wish, FusionReport(**{**old.report.model_dump(), **changes.pop("report", {})}), **changes)


def on_paper(record: Any) -> Any:
    class Wish:
        run_id, round_number, plan = record.run_id, record.round_number, record.plan

    return Wish()


def test_rounds_that_no_majority_says_are_not_written(on_sqlite: Restorable) -> None:
    backup = two_rounds_after_a_backup(on_sqlite)
    run_id = on_sqlite.federation.run_id
    for node_id in ("node-b", "node-c"):
        resigned(on_sqlite.site(node_id), run_id, report={"fused_digest": sha("other", node_id)})
    on_sqlite.restore(backup)
    send_records(on_sqlite, "node-a", "node-b", "node-c")
    (gap,) = ledger(on_sqlite).runs
    assert gap.replayable == (3,)
    assert gap.obstacle == (
        "Round 4 cannot be replayed: 1 of its 3 members agree, which is no majority; the others say something else."
    )
    assert recover(on_sqlite).rounds == {run_id: (3,)}
    on_sqlite.federation.move("resume")
    assert on_sqlite.federation.run.round_number == 4


def test_one_that_deviates_is_left_out_by_name(on_sqlite: Restorable) -> None:
    backup = two_rounds_after_a_backup(on_sqlite)
    run_id = on_sqlite.federation.run_id
    resigned(on_sqlite.site("node-b"), run_id, report={"fused_digest": sha("other")})
    on_sqlite.restore(backup)
    send_records(on_sqlite, "node-a", "node-b", "node-c")
    assert recover(on_sqlite).rounds == {run_id: (3, 4)}
    assert on_sqlite.federation.statuses(4)["node-b"] == "excluded(digest)"


def test_manifests_are_checked_against_the_roster(on_sqlite: Restorable) -> None:
    """A majority that invents a round needs the signatures of everybody whose update it names."""
    backup = two_rounds_after_a_backup(on_sqlite)
    run_id = on_sqlite.federation.run_id
    for node_id in ("node-a", "node-b"):
        site = on_sqlite.site(node_id)
        old = site.records[run_id, 4].record
        forged = tuple(_with_other_signature(one) for one in old.manifests)
        entries = tuple(
            entry.model_copy(update={"manifest_sha256": one.sha256})
            for entry, one in zip(old.plan.entries, forged, strict=True)
        )
        resigned(site, run_id, plan=old.plan.model_copy(update={"entries": entries}), manifests=forged)
    on_sqlite.restore(backup)
    send_records(on_sqlite, "node-a", "node-b")
    (gap,) = ledger(on_sqlite).runs
    assert gap.replayable == (3,)
    assert "its signature is not node-c's" in (gap.obstacle or "")


def _with_other_signature(signed: SignedManifest) -> SignedManifest:
    if signed.manifest.node_id != "node-c":
        return signed
    return signed.model_copy(update={"signature": signed.signature[::-1]})


def test_a_record_that_somebody_else_signed_is_refused(on_sqlite: Restorable) -> None:
    backup = two_rounds_after_a_backup(on_sqlite)
    on_sqlite.restore(backup)
    thief, victim = on_sqlite.site("node-a"), on_sqlite.site("node-b")
    thief.desired()
    thief.records = dict(victim.records)
    with pytest.raises(AssertionError, match="record_refused"):
        thief.send_records()


def test_whatever_the_moment_of_the_backup(on_sqlite: Restorable) -> None:
    """Each time it is completed to the same rounds; the plan that froze has lost a member since, who was revoked."""
    federation = on_sqlite.federation.begin(num_rounds=4).to_round(1)
    backups = [on_sqlite.backup()]
    first, wish = federation.wishes()[0]
    first.ok(first.announce(wish))
    backups.append(on_sqlite.backup())
    federation.announce_all()
    backups.append(on_sqlite.backup())
    first.ok(first.fusion(first.assignment()))
    backups.append(on_sqlite.backup())
    federation.revoke("node-c")
    federation.fuse_all()
    backups.append(on_sqlite.backup())
    federation.to_round(3)
    before = [federation.round(number) for number in range(3)]
    for site in federation.sites.values():
        site.desired()
    memories = {node: dict(vars(on_sqlite.site(node))) for node in federation.sites}
    for backup, missing in zip(backups, [(1, 2), (1, 2), (1, 2), (1, 2), (2,)], strict=True):
        on_sqlite.restore(backup)
        for node, memory in memories.items():
            on_sqlite.site(node).__dict__.update(memory, rounds=dict(memory["rounds"]), revoked=set(memory["revoked"]))
        send_records(on_sqlite, *federation.sites)
        assert recover(on_sqlite).rounds == {federation.run_id: missing}
        federation.move("resume")
        assert federation.run.round_number == 3
        for number in range(1, 3):
            now = federation.round(number)
            assert (now.status, now.fused_digest, now.plan) == (
                "completed",
                before[number].fused_digest,
                before[number].plan,
            )
            found = {node: status for node, status in federation.statuses(number).items() if node != "node-c"}
            assert found == {"node-a": "fused", "node-b": "fused"}


def test_a_run_that_was_started_after_the_backup_is_completed_too(on_sqlite: Restorable) -> None:
    federation = on_sqlite.federation
    federation.create()
    for node_id in ("node-a", "node-b"):
        on_sqlite.site(node_id).ok(on_sqlite.site(node_id).accept(federation.run_id))
    backup = on_sqlite.backup()
    on_sqlite.site("node-c").ok(on_sqlite.site("node-c").accept(federation.run_id))
    federation.move("start")
    federation.to_round(2)
    before = [federation.round(number) for number in range(2)]
    for site in federation.sites.values():
        site.desired()
    on_sqlite.restore(backup)
    send_records(on_sqlite, *federation.sites)
    on_sqlite.site("node-c").ok(on_sqlite.site("node-c").accept(federation.run_id))  # as its agent tells again
    assert recover(on_sqlite).rounds == {federation.run_id: (0, 1)}
    assert (federation.run.status, federation.run.reason) == ("paused", "ledger_restored")
    assert [federation.round(number).fused_digest for number in range(2)] == [one.fused_digest for one in before]
    federation.move("resume")
    federation.play_round()
    assert federation.statuses(2) == {"node-a": "fused", "node-b": "fused", "node-c": "fused"}
