"""A coordinator that is started again on the same database goes on with the same round, whatever the moment."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hsl_model.protocol.clock import ManualClock
from tests.coordinator.conftest import open_alliance
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.rounds.sites import Federation, enrolled


class Restarter:
    """Opens a new application on the same database, and lets the federation speak to it."""

    def __init__(self, url: str, clock: ManualClock, hub: MemoryHub) -> None:
        self._parts = (url, clock, hub)
        self._running = ExitStack()
        self.federation = enrolled(self._running.enter_context(open_alliance(*self._parts)))
        self.count = 0

    def restart(self) -> None:
        self._running.close()
        self.federation.alliance = self._running.enter_context(open_alliance(*self._parts))
        for site in self.federation.sites.values():
            site.speaker.http = self.federation.alliance.http
        self.federation.alliance.beat()
        self.count += 1

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def restarter(sqlite_url: str, clock: ManualClock, hub: MemoryHub) -> Iterator[Restarter]:
    restarter = Restarter(sqlite_url, clock, hub)
    yield restarter
    restarter.close()


def summary(federation: Federation) -> list[object]:
    rounds = [federation.round(number) for number in range(2)]
    run_id = federation.run_id  # digests are made of it, so each run has its own
    plans = [[entry.node_id for entry in found.plan.entries] for found in rounds if found.plan]
    weights = [[entry.weight for entry in found.plan.entries] for found in rounds if found.plan]
    statuses = [federation.statuses(number) for number in range(2)]
    kinds = [kind for kind in federation.alliance.event_kinds(run_id=run_id) if not kind.startswith("node.")]
    return [federation.run.status, federation.run.best_round, plans, weights, statuses, kinds]


def test_restarted_after_every_message_the_run_ends_alike(restarter: Restarter) -> None:
    federation: Federation = restarter.federation
    federation.begin(num_rounds=1)
    for _ in range(2):
        federation.play_round()
    undisturbed = summary(federation)

    federation.begin(num_rounds=1)
    for _ in range(2):
        for site, wish in federation.wishes():
            if wish.round_number > 0 or wish.is_initialiser:
                site.ok(site.announce(wish))
                restarter.restart()
        for site, wish in federation.wishes():
            site.ok(site.fusion(wish))
            restarter.restart()
    assert restarter.count == 4 + 6
    assert summary(federation) == undisturbed
