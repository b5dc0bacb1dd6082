from collections.abc import Iterator

import pytest

from hsl_model.protocol.clock import ManualClock
from tests.coordinator.rounds.direct import DirectAlliance, directly_enrolled
from tests.coordinator.rounds.sites import Federation


@pytest.fixture
def federation(sqlite_url: str, clock: ManualClock) -> Iterator[Federation]:
    """Three enrolled sites, no run yet; spoken to without HTTP. Modules that are about the API make one behind it."""
    federation = directly_enrolled(sqlite_url, clock)
    yield federation
    assert isinstance(federation.alliance, DirectAlliance)
    federation.alliance.close()
