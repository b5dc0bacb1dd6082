"""A site that leaves and comes back with an empty disk, and one that joins while the run goes on; real processes."""

import shutil
from collections.abc import Callable

import pytest

from hsl_model.protocol.states import ParticipationStatus
from hsl_model.protocol.views import NodeView, RoundView
from tests.e2e.alliance import Alliance

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
GOES, JOINS = "site-3", "site-4"
OF_THE_SITE = {"keys", "bindings", "node.json", "token"}  # what its admin has a copy of; all else was on the disk
MORE_THAN_ENOUGH = 200  # rounds; the test stops the run


def test_a_site_that_was_away_with_an_empty_disk_and_a_late_joiner_are_in_again(
    new_alliance: Callable[..., Alliance],
) -> None:
    alliance = new_alliance(num_sites=4)
    alliance.start()
    run_id = alliance.create_run(
        num_rounds=MORE_THAN_ENOUGH,
        quorum={"min_nodes": 2, "required_nodes": ("site-1",)},
        round_deadline_s=8.0,
        report_deadline_s=8.0,
    )
    for node_id in alliance.node_ids:
        if node_id != JOINS:
            alliance.wait_until(lambda node_id=node_id: alliance.accept(node_id, run_id), f"{node_id} to accept")
    alliance.wait_until(
        lambda: sum(one.status == "accepted" for one in alliance.run(run_id).members) == 3, "three members"
    )
    alliance.post(f"/runs/{run_id}/start")

    alliance.wait_until(lambda: GOES in fused_in(completed(alliance, run_id)), f"a round with {GOES}")
    alliance.services.pop(GOES).kill()
    last_with = max(one.round_number for one in completed(alliance, run_id))
    alliance.wait_until(lambda: len(without(GOES, alliance, run_id, last_with)) >= 3, f"three rounds without {GOES}")
    left_out = without(GOES, alliance, run_id, last_with)[-1]
    assert {p.reason for p in left_out.participations if p.node_id == GOES} == {"late"}, left_out
    assert JOINS not in {p.node_id for p in left_out.participations}

    for path in (alliance.root / GOES).iterdir():
        if path.name not in OF_THE_SITE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    alliance.start_agent(GOES)
    alliance.wait_until(lambda: is_duplicate(alliance, GOES), "it to be taken for another agent")
    alliance.post(f"/nodes/{GOES}/release")
    alliance.wait_until(lambda: alliance.accept(JOINS, run_id), f"{JOINS} to accept")
    alliance.wait_until(
        lambda: fused_in(completed(alliance, run_id)[-1:]) == set(alliance.node_ids), "a round with all four"
    )
    alliance.post(f"/runs/{run_id}/stop")
    for one in completed(alliance, run_id):
        reported = {p.fused_digest for p in one.participations if p.status == ParticipationStatus.FUSED}
        assert reported == {one.fused_digest}, one


def completed(alliance: Alliance, run_id: str) -> list[RoundView]:
    """Rounds of training, oldest first."""
    found = [one for one in alliance.rounds(run_id) if one.status == "completed" and one.round_number > 0]
    return sorted(found, key=lambda one: one.round_number)


def fused_in(rounds: list[RoundView]) -> set[str]:
    return {p.node_id for one in rounds for p in one.participations if p.status == ParticipationStatus.FUSED}


def without(node_id: str, alliance: Alliance, run_id: str, after: int) -> list[RoundView]:
    rounds = completed(alliance, run_id)
    return [one for one in rounds if one.round_number > after and node_id not in fused_in([one])]


def is_duplicate(alliance: Alliance, node_id: str) -> bool:
    view = NodeView.model_validate_json(alliance.http.get(f"/nodes/{node_id}").raise_for_status().content)
    return view.duplicate_instance
