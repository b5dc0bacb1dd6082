from collections.abc import Iterator
from pathlib import Path

import pytest

from hsl_model.protocol.messages import HubPlace
from tests.embedded_hub.helpers import HubProcess
from tests.node_agent.check.scene import Cardboard, SiteUnderTest
from tests.node_agent.tls import Authority


@pytest.fixture
def coordinator(authority: Authority, hub: HubProcess) -> Iterator[Cardboard]:
    with Cardboard(authority, HubPlace(host="127.0.0.1", port=hub.port)) as service:
        yield service


@pytest.fixture
def site(tmp_path: Path, coordinator: Cardboard) -> SiteUnderTest:
    return SiteUnderTest(tmp_path / "node", coordinator.url)
