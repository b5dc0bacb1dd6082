"""Requests at the same instant, from several threads, on PostgreSQL and on SQLite: the row lock decides."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hsl_model.protocol.clock import ManualClock
from tests.coordinator.rounds.direct import directly_enrolled
from tests.coordinator.rounds.sites import Federation, sha


@pytest.fixture
def federation(database_url: str, clock: ManualClock) -> Any:
    """On both databases."""
    federation = directly_enrolled(database_url, clock)
    yield federation
    federation.alliance.close()


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """All begin together; answers in their order."""
    barrier = threading.Barrier(len(works))
    answers: list[Any] = [None] * len(works)

    def run(index: int, work: Callable[[], Any]) -> None:
        barrier.wait()
        answers[index] = work()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_last_announces_at_once_freeze_one_plan_with_all(federation: Federation) -> None:
    federation.begin()
    for number in (1, 2, 3):
        federation.to_round(number)
        wishes = federation.wishes()
        replies = at_once(*(lambda s=site, w=wish: s.announce(w) for site, wish in wishes))
        assert [reply.json()["participation"] for reply in replies] == ["announced"] * 3
        found = federation.round(number)
        assert found.status == "fusing"
        assert found.plan is not None
        assert len(found.plan.entries) == 3
        federation.fuse_all()
    frozen = [kind for kind in federation.alliance.event_kinds() if kind == "round.fusing"]
    assert len(frozen) == 4


def test_an_announce_and_the_deadline_at_once_are_in_or_late_but_never_half(federation: Federation) -> None:
    federation.begin(round_deadline_s=600.0, num_rounds=9)
    for number in range(1, 6):
        federation.to_round(number)
        for node_id in ("node-a", "node-b"):
            federation[node_id].announce(federation[node_id].assignment())
        late = federation["node-c"]
        wish = late.assignment()
        federation.alliance.clock.advance(600)
        reply, _ = at_once(lambda: late.announce(wish), federation.alliance.beat)  # noqa: B023 - called at once
        plan = federation.round(number).plan
        assert plan is not None
        in_plan = "node-c" in {entry.node_id for entry in plan.entries}
        assert reply.json()["participation"] == ("announced" if in_plan else "excluded")
        assert federation.statuses(number)["node-c"] == ("fusing" if in_plan else "excluded(late)")
        federation.fuse_all()


def test_two_updates_of_one_node_at_once_leave_one(federation: Federation) -> None:
    federation.begin().to_round(1)
    site = federation["node-a"]
    wish = site.assignment()
    replies = at_once(*(lambda n=n: site.announce(wish, update_sha256=sha(n)) for n in range(4)))
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409]
    accepted = {reply.json().get("accepted_sha256") or reply.json()["data"]["accepted_sha256"] for reply in replies}
    assert accepted == {site.assignment().accepted_sha256}


def test_reports_refusals_and_a_stop_at_once_leave_a_state_that_is_whole(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    (a, wish_a), (b, wish_b), (c, wish_c) = federation.wishes()
    at_once(
        lambda: a.fusion(wish_a),
        lambda: b.fusion(wish_b),
        lambda: c.refuse(wish_c, "node-a"),
        lambda: b.refuse(wish_b, "node-a"),
        lambda: federation.move("stop"),
    )
    assert federation.run.status == "stopped"
    assert federation.round(1).status == "cancelled"


def test_withdrawing_at_once_does_not_deadlock(federation: Federation) -> None:
    federation.begin().to_fusing(1)
    replies = at_once(*(lambda s=site: s.withdraw(federation.run_id) for site in federation.sites.values()))
    assert all(reply.is_success for reply in replies)
    assert federation.run.status == "failed"
