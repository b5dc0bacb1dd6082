"""k members fuse for all: chosen in turn, compared with each other and an audit, and replaced by name.

Six sites. Round 1 of a run with two fusers begins at the third name: node-c and node-d fuse.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from coordinator.rounds.fusers import EVERYBODY, Election, Fusers
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.messages import FusionPlan, RefusalKind
from tests.coordinator.rounds.direct import DirectAlliance, directly_enrolled
from tests.coordinator.rounds.sites import Federation, Site, run_config, sha

SIX = tuple(f"node-{letter}" for letter in "abcdef")
FUSERS = ("node-c", "node-d")


@pytest.fixture
def federation(sqlite_url: str, clock: ManualClock) -> Iterator[Federation]:
    federation = directly_enrolled(sqlite_url, clock, SIX)
    yield federation
    assert isinstance(federation.alliance, DirectAlliance)
    federation.alliance.close()


@pytest.fixture
def fusing(federation: Federation) -> Federation:
    """Round 1 is frozen with two fusers."""
    return federation.begin(nodes=SIX, fusers=2, report_deadline_s=300.0, num_rounds=9).to_fusing(1)


def plan_of(federation: Federation, round_number: int = 1) -> FusionPlan:
    plan = federation.round(round_number).plan
    assert plan is not None
    return plan


def fuse(federation: Federation, *nodes: str, **changes: Any) -> None:
    for node_id in nodes:
        site = federation[node_id]
        site.ok(site.fuse(site.assignment(), **changes))


def audit_of(federation: Federation) -> str:
    audit = plan_of(federation).audit
    assert audit is not None
    return audit


def others(federation: Federation) -> list[Site]:
    """Who waits for the fusers."""
    plan = plan_of(federation)
    return [site for site in federation.sites.values() if not plan.is_fused_by(site.node_id)]


def finish(federation: Federation, round_number: int = 1) -> str:
    """Everybody does what is asked of it until the round is over; its fused digest."""
    for _ in range(6):
        if federation.round(round_number).status == "fusing":
            federation.fuse_all()
    done = federation.round(round_number)
    assert (done.status, done.waiting) == ("completed", None)
    assert done.fused_digest is not None
    return done.fused_digest


def right_digest(federation: Federation) -> str:
    parts = [(entry.node_id, entry.update_sha256, entry.weight) for entry in plan_of(federation).entries]
    return sha("fused", federation.run_id, 1, parts)


def happened(federation: Federation, kind: str) -> list[Any]:
    return federation.alliance.events(run_id=federation.run_id, kind=kind)


# --- who -------------------------------------------------------------------------------------------------------------


def election(round_number: int, fusers: Any = 2, members: tuple[str, ...] = SIX, **changes: Any) -> Election:
    return Election(run_config(nodes=members, fusers=fusers, **changes), "run-1", round_number, members)


def test_the_fusers_rotate_and_the_audit_is_drawn_among_the_others() -> None:
    turns = [election(number).among(SIX) for number in range(1, 7)]
    assert [turn.names for turn in turns[:3]] == [FUSERS, ("node-e", "node-f"), ("node-a", "node-b")]
    assert turns == [election(number).among(SIX) for number in range(1, 7)]  # the same for whoever asks
    assert all(turn.audit in set(SIX) - set(turn.names) for turn in turns)
    assert len({turn.audit for turn in turns}) > 2


def test_who_left_is_replaced_and_who_stays_keeps_its_place() -> None:
    first = election(1).among(SIX)
    again = election(1).among(set(SIX) - {"node-c"}, first)
    assert "node-d" in again.names
    assert again.audit == first.audit
    assert len(again.names) == 2
    assert election(1).among({"node-a", "node-d"}, first) == EVERYBODY  # two cannot fuse and be audited
    assert election(1).among({"node-a", "node-b", "node-d"}, first) == Fusers(
        ("node-b", "node-d") if first.audit == "node-a" else ("node-a", "node-d"),
        "node-a" if first.audit == "node-a" else "node-b",
    )


@pytest.mark.parametrize(
    ("fusers", "num_members", "num_fusers"),
    [(None, 8, None), (None, 9, 2), ("all", 200, None), (2, 4, 2), (2, 3, None), (5, 6, None), (3, 16, 3)],
)
def test_all_fuse_up_to_eight_members_and_two_above_unless_said(
    fusers: Any, num_members: int, num_fusers: int | None
) -> None:
    assert run_config(fusers=fusers).num_fusers(num_members) == num_fusers


def test_nothing_is_saved_in_round_0() -> None:
    assert election(0).among(SIX) == EVERYBODY


@pytest.mark.parametrize("method", ["personalised", "local"])
def test_nobody_fuses_for_another_where_there_is_no_common_model(method: str) -> None:
    with pytest.raises(ValidationError, match="leave fusers out"):
        run_config(method={"name": method}, fusers=2)
    assert run_config(method={"name": method}, fusers="all").num_fusers(200) is None
    assert run_config(method={"name": method}).num_fusers(200) is None


def test_one_fuser_alone_would_have_to_be_believed() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        run_config(fusers=1)


def test_configurations_from_before_are_read() -> None:
    old = run_config().model_dump(mode="json")
    assert RunConfig.model_validate({**old, "fusers": "all"}).fusers == "all"
    del old["fusers"]
    assert RunConfig.model_validate(old).fusers is None


# --- a round ---------------------------------------------------------------------------------------------------------


def test_the_others_fetch_one_file_once_all_fusers_agree(fusing: Federation) -> None:
    assert plan_of(fusing).fusers == FUSERS
    waits = others(fusing)
    assert len(waits) == 3
    fuse(fusing, "node-c")
    c = fusing["node-c"]
    fusing["node-d"].ok(fusing["node-d"].fusion(fusing["node-d"].assignment()))  # fused, and still publishing
    assert all(site.assignment().fused is None for site in waits)
    fuse(fusing, "node-d")
    for site in waits:
        file = site.assignment().fused
        assert file is not None
        assert (file.fused_digest, file.on_hub) == (right_digest(fusing), FUSERS)
        assert site.assignment().waiting is None  # there is something to do
        site.ok(site.fuse(site.assignment()))
    assert fusing.round(1).status == "fusing"  # the audit has not spoken yet
    fuse(fusing, audit_of(fusing))
    assert fusing.round(1).status == "completed"
    assert set(fusing.statuses(1).values()) == {"fused"}
    assert c.assignment().start.file_sha256 == fusing.round(1).fused_file_sha256  # type: ignore[union-attr]
    assert len(happened(fusing, "round.fusers_chosen")) == 1
    assert len(happened(fusing, "round.fusers_agree")) == 1


def test_with_k_the_plan_has_the_same_updates_and_weights_as_with_all(federation: Federation) -> None:
    plans = []
    for fusers in ("all", 2):
        federation.begin(nodes=SIX, fusers=fusers, num_rounds=3, method={"name": "fedavg"})
        for number in (1, 2, 3):
            plan = plan_of(federation.to_fusing(number), number)
            plans.append([(entry.node_id, entry.weight, entry.num_cases) for entry in plan.entries])
            assert bool(plan.fusers) == (fusers == 2)
            finish(federation, number)
        assert federation.run.status == "completed"
    assert plans[:3] == plans[3:]


def test_updates_are_fetched_early_only_by_those_whose_turn_it_is(federation: Federation) -> None:
    federation.begin(nodes=SIX, fusers=2).to_round(1)
    for site in list(federation.sites.values())[:5]:
        site.announce(site.assignment())
    early = {site.node_id for site in federation.sites.values() if site.assignment().announced}
    federation.announce_all()
    assert early == set(plan_of(federation).voices) - {"node-f"}
    assert {*FUSERS} <= early


def test_a_member_that_was_late_fetches_the_fused_file_too(federation: Federation) -> None:
    federation.begin(nodes=SIX, fusers=2, round_deadline_s=600.0, num_rounds=9).to_round(1)
    late = federation["node-a"]
    for site in list(federation.sites.values())[1:]:
        site.announce(site.assignment())
    federation.alliance.beat(600)
    assert plan_of(federation).fusers == FUSERS
    assert "node-c, node-d" in (late.assignment().waiting or "")
    fuse(federation, *FUSERS)
    assert late.assignment().fused is not None
    late.ok(late.fuse(late.assignment()))
    finish(federation)


def test_what_is_awaited_of_whom_and_since_when(fusing: Federation) -> None:
    waits = others(fusing)[0]
    text = fusing.run.waiting or ""
    assert text.startswith("Round 1 (plan frozen 2026-01-01 00:00 UTC) is fused by node-c, node-d for all members")
    assert "waits for the fused file of node-c (online), node-d (online)." in text
    assert waits.assignment().waiting == text
    assert fusing["node-c"].assignment().waiting is None
    fuse(fusing, "node-c")
    assert "the fused file of node-d (online)." in (waits.assignment().waiting or "")
    fuse(fusing, "node-d", fused_digest=sha("other"))
    assert f"differ, and waits for the audit by {audit_of(fusing)}" in (waits.assignment().waiting or "")


# --- late, gone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["nothing", "reports and does not publish"])
def test_a_fuser_that_is_late_is_replaced_and_stays_a_member(fusing: Federation, does: str) -> None:
    digest, before = right_digest(fusing), plan_of(fusing)
    fuse(fusing, "node-c", audit_of(fusing))
    if does != "nothing":
        fusing["node-d"].ok(fusing["node-d"].fusion(fusing["node-d"].assignment()))
    fusing.alliance.beat(299)
    assert plan_of(fusing).version == 1
    fusing.alliance.beat(1)
    plan = plan_of(fusing)
    assert (plan.version, plan.entries, plan.replaced) == (2, before.entries, ("node-d",))
    assert "node-c" in plan.fusers
    assert "node-d" not in plan.voices
    assert len(plan.fusers) == 2
    (named,) = happened(fusing, "round.fuser_replaced")
    assert (named.node_id, named.data["reason"]) == ("node-d", "no_report")
    assert finish(fusing) == digest
    assert set(fusing.statuses(1).values()) == {"fused"}


def test_a_fuser_that_is_revoked_is_replaced_and_its_update_goes(fusing: Federation) -> None:
    fuse(fusing, *FUSERS)  # their file is agreed on, and is thrown away with the plan
    fusing.revoke("node-d")
    plan = plan_of(fusing)
    assert plan.version == 2
    assert "node-d" not in [*plan.voices, *(entry.node_id for entry in plan.entries)]
    assert len(plan.fusers) == 2
    assert all(site.assignment().fused is None for site in fusing.sites.values())
    finish(fusing)
    assert fusing.statuses(1)["node-d"] == "excluded(revoked)"


def test_without_a_deadline_a_dead_fuser_is_waited_for_by_name(federation: Federation) -> None:
    federation.begin(nodes=SIX, fusers=2).to_fusing(1)
    fuse(federation, "node-c")
    federation.alliance.beat(30 * 86400)
    assert plan_of(federation).version == 1
    assert "node-d (lost, last seen" in (federation.run.waiting or "")


def test_when_too_few_are_left_everybody_fuses(fusing: Federation) -> None:
    for _ in range(2):
        fusing.alliance.beat(300)
    plan = plan_of(fusing)
    assert (plan.version, plan.fusers, plan.audit) == (3, (), None)
    finish(fusing)


def test_a_late_audit_holds_nobody_up_for_ever(fusing: Federation) -> None:
    audit = audit_of(fusing)
    fuse(fusing, *FUSERS, *(site.node_id for site in others(fusing)))
    fusing.alliance.beat(300)
    assert fusing.round(1).status == "completed"
    assert fusing.statuses(1)[audit] == "excluded(no_report)"
    assert [event.node_id for event in happened(fusing, "round.audit_missing")] == [audit]


# --- lies ------------------------------------------------------------------------------------------------------------

WRONG = {"fused_digest": sha("wrong"), "file_sha256": sha("wrong file")}


def test_a_fuser_with_another_digest_is_found_by_the_other_and_the_audit(fusing: Federation) -> None:
    digest, before = right_digest(fusing), plan_of(fusing)
    fuse(fusing, "node-c")
    fuse(fusing, "node-d", **WRONG)
    assert others(fusing)[0].assignment().fused is None
    fuse(fusing, audit_of(fusing))
    assert fusing["node-d"].assignment().redo_fusion == 1  # perhaps its disk or memory
    assert plan_of(fusing).version == 1
    fuse(fusing, "node-d", **WRONG)
    plan = plan_of(fusing)
    assert (plan.version, plan.entries, plan.replaced) == (2, before.entries, ("node-d",))
    assert fusing.statuses(1)["node-d"] == "excluded(digest)"
    (named,) = happened(fusing, "round.fuser_replaced")
    assert (named.node_id, named.data["reason"]) == ("node-d", "digest")
    assert finish(fusing) == digest  # the very bits it would have had without the lie
    assert fusing.statuses(1)["node-d"] == "excluded(digest)"


def test_a_fuser_that_errs_once_is_not_replaced(fusing: Federation) -> None:
    fuse(fusing, "node-c", audit_of(fusing))
    fuse(fusing, "node-d", **WRONG)
    fuse(fusing, "node-d")
    assert plan_of(fusing).version == 1
    finish(fusing)
    assert set(fusing.statuses(1).values()) == {"fused"}


def test_a_right_digest_with_another_file_is_no_agreement(fusing: Federation) -> None:
    fuse(fusing, "node-c")
    fuse(fusing, "node-d", file_sha256=sha("another layout"))
    assert others(fusing)[0].assignment().fused is None
    fuse(fusing, audit_of(fusing))
    assert fusing["node-d"].assignment().redo_fusion == 1


def test_fusers_that_agree_on_a_lie_are_found_by_the_audit(fusing: Federation) -> None:
    digest, audit = right_digest(fusing), audit_of(fusing)
    fuse(fusing, *FUSERS, **WRONG)
    fuse(fusing, *(site.node_id for site in others(fusing)))  # they have taken it over already
    fuse(fusing, audit)
    (named,) = happened(fusing, "round.audit_deviates")
    assert (named.node_id, named.data["fused_digest"], named.data["agreed_digest"]) == (audit, digest, sha("wrong"))
    assert fusing[audit].assignment().redo_fusion == 1
    fuse(fusing, audit)
    plan = plan_of(fusing)
    assert (plan.version, plan.fusers) == (2, ())  # two against one: all decide
    for _ in range(2):
        fuse(fusing, *(set(SIX) - set(FUSERS)))
        fuse(fusing, *FUSERS, **WRONG)
    done = fusing.round(1)
    assert (done.status, done.fused_digest) == ("completed", digest)
    assert [fusing.statuses(1)[node] for node in FUSERS] == ["excluded(digest)"] * 2


def test_an_audit_that_lies_costs_a_round_of_all_and_is_excluded_by_name(fusing: Federation) -> None:
    digest, audit = right_digest(fusing), audit_of(fusing)
    fuse(fusing, *FUSERS)
    fuse(fusing, audit, **WRONG)
    fuse(fusing, audit, **WRONG)
    assert plan_of(fusing).fusers == ()
    honest = set(SIX) - {audit}
    fuse(fusing, *honest)
    fuse(fusing, audit, **WRONG)
    fuse(fusing, audit, **WRONG)
    assert fusing.round(1).fused_digest == digest
    assert fusing.statuses(1)[audit] == "excluded(digest)"


def test_where_all_three_differ_all_fuse_once_more_and_then_everybody(fusing: Federation) -> None:
    for attempt in range(2):
        assert plan_of(fusing).version == 1
        for node_id in plan_of(fusing).voices:
            assert fusing[node_id].assignment().redo_fusion == attempt
            fuse(fusing, node_id, fused_digest=sha(node_id))
    assert (plan_of(fusing).version, plan_of(fusing).fusers) == (2, ())
    finish(fusing)


def test_wrong_bytes_under_the_right_name_are_named_and_fetched_elsewhere(fusing: Federation) -> None:
    fuse(fusing, *FUSERS, audit_of(fusing))
    a = others(fusing)[0]
    wish = a.assignment()
    assert wish.fused is not None
    file_sha256 = wish.fused.file_sha256
    for _ in range(2):  # said twice, noted once
        a.ok(a.refuse(wish, "node-d", RefusalKind.MISSING, update_sha256=file_sha256, reason="other bytes"))
    (named,) = happened(fusing, "fused_file.refused")
    assert (named.node_id, named.data["verifier"]) == ("node-d", a.node_id)
    assert a.assignment().fused.on_hub == ("node-c",)  # type: ignore[union-attr]
    assert a.assignment().republish == ()
    finish(fusing)


def test_a_file_that_is_on_nobodys_shelf_costs_the_fusers_their_turn(fusing: Federation) -> None:
    """And not the members who cannot fetch it theirs."""
    digest = right_digest(fusing)
    fuse(fusing, *FUSERS, audit_of(fusing))
    waits = others(fusing)
    for site in waits:
        wish = site.assignment()
        assert wish.fused is not None
        file_sha256 = wish.fused.file_sha256
        for node_id in FUSERS:
            site.refuse(wish, node_id, RefusalKind.MISSING, update_sha256=file_sha256, reason="other bytes")
        asked = site.desired(missing=(file_sha256,))
        assert "is awaited from" in (asked.assignment.waiting or "")  # type: ignore[union-attr]
    asked_now = {node for node in (*FUSERS, audit_of(fusing)) if fusing[node].desired().publish}
    assert len(asked_now) == 1  # whoever has fused it can publish it, the audit too
    fusing.alliance.beat(300)
    plan = plan_of(fusing)
    assert (plan.version, plan.replaced) == (2, FUSERS)
    assert finish(fusing) == digest
    assert set(fusing.statuses(1).values()) == {"fused"}


def test_a_fused_file_that_is_no_model_of_the_run_is_fused_by_all(fusing: Federation) -> None:
    fuse(fusing, *FUSERS)
    a = others(fusing)[0]
    wish = a.assignment()
    assert wish.fused is not None
    a.ok(a.refuse(wish, "node-c", RefusalKind.CONTENT, update_sha256=wish.fused.file_sha256))
    assert (plan_of(fusing).version, plan_of(fusing).fusers) == (2, ())
    (named,) = happened(fusing, "fused_file.refused")
    assert named.data["verifier"] == a.node_id
    finish(fusing)


def test_updates_are_refused_by_a_majority_of_those_who_fuse(fusing: Federation) -> None:
    voices = plan_of(fusing).voices
    owner = others(fusing)[0].node_id
    for node_id in voices[:2]:
        assert plan_of(fusing).version == 1
        fusing[node_id].refuse(fusing[node_id].assignment(), owner)
    assert plan_of(fusing).version == 2
    assert fusing.statuses(1)[owner] == "excluded(refused)"
    finish(fusing)


def test_only_a_file_that_it_has_reported_can_be_published_by_a_fuser(fusing: Federation) -> None:
    reply = fusing["node-c"].published(fusing.run_id, sha("anything"))
    assert (reply.status_code, reply.json()["code"]) == (404, "file_unknown")
