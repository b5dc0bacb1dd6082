"""The implementations of `HubAdmin` under one suite, each beside the server it manages."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.hub.admin import HubAdmin
from coordinator.hub.embedded import EmbeddedHubAdmin
from coordinator.hub.sftpgo import SftpgoHubAdmin
from hsl_model.protocol.messages import HubAddress
from tests.embedded_hub.helpers import HubProcess
from tests.sftpgo.helpers import SftpgoProcess

_numbers = itertools.count(1)


@dataclass(frozen=True)
class ManagedHub:
    """`admin` is under test; `folder` is where the server keeps a node's files."""

    admin: HubAdmin
    folder: Callable[[str], Path]
    address: HubAddress  # of nobody in particular: host, port and key of the server


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def sftpgo_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpgoProcess]:
    with SftpgoProcess(tmp_path_factory.mktemp("sftpgo")) as running:
        yield running


HUBS = ("embedded hub", pytest.param("sftpgo", marks=pytest.mark.sftpgo))


@pytest.fixture(params=HUBS)
def managed(request: pytest.FixtureRequest, count: Callable[[str, int], None]) -> Iterator[ManagedHub]:
    """A further hub is one more parameter here."""
    count(f"HubAdmin, cases on {request.param}", 1)
    name = {"embedded hub": "hub_process", "sftpgo": "sftpgo_process"}[request.param]
    process: HubProcess = request.getfixturevalue(name)
    admin: EmbeddedHubAdmin | SftpgoHubAdmin
    if isinstance(process, SftpgoProcess):
        admin = process.open_admin()
    else:
        admin = EmbeddedHubAdmin(process.admin_url, process.token)
    info = process.info
    address = HubAddress(host=info["host"], port=info["port"], username="nobody", host_key=info["host_key"])
    yield ManagedHub(admin, process.folder, address)
    admin.close()


@pytest.fixture
def node_id() -> str:
    return f"site-{next(_numbers)}"
