"""Three sites, three rounds, from the draft to the best round."""

import pytest

from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, enrolled


@pytest.fixture
def federation(alliance: Alliance) -> Federation:
    """On both databases."""
    return enrolled(alliance)


def test_three_sites_complete_three_rounds(federation: Federation) -> None:
    federation.begin()
    for auc in (0.5, 0.7, 0.9, 0.8):
        federation.play_round(auc)
    run = federation.run
    assert (run.status, run.round_number, run.best_round) == ("completed", 3, 2)
    assert run.best_mean_auc == 0.9
    assert run.reason == "reached its limit of 3 rounds"
    for round_number in range(4):
        found = federation.round(round_number)
        assert found.status == "completed"
        assert {one.fused_digest for one in found.participations} == {found.fused_digest}
        assert set(federation.statuses(round_number).values()) == {"fused"}
    for site in federation.sites.values():
        wish = site.desired()
        assert wish.assignment is None
        assert wish.finished_runs == (federation.run_id,)
