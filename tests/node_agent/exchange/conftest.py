"""The implementations under one suite."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from node_agent.exchange import open_exchange
from node_agent.exchange.base import Exchange
from node_agent.exchange.directory import DirectoryExchange
from tests.embedded_hub.helpers import HubProcess
from tests.sftpgo.helpers import SftpgoProcess
from tests.simulator.faults import Faults
from tests.simulator.files import FaultyExchange, HubFolder, NoCrossings

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def sftpgo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpgoProcess]:
    with SftpgoProcess(tmp_path_factory.mktemp("sftpgo")) as running:
        yield running


class Site(Protocol):
    """A node under test, and its folder on the hub's disk."""

    node_id: str
    exchange: Exchange
    folder: Path


class _Site:
    def __init__(self, node_id: str, exchange: Exchange, folder: Path) -> None:
        self.node_id, self.exchange, self.folder = node_id, exchange, folder


@pytest.fixture(params=["directory", "simulated", "embedded hub", pytest.param("sftpgo", marks=pytest.mark.sftpgo)])
def new_site(
    request: pytest.FixtureRequest, tmp_path: Path, count: Callable[[str, int], None]
) -> Iterator[Callable[[], Site]]:
    """Makes nodes that share a hub. A further hub is one more parameter here."""
    count(f"exchange, cases on {request.param}", 1)
    made: list[_Site] = []

    def directory() -> Site:
        node_id = f"site-{next(_numbers)}"
        folder = tmp_path / "hub" / "nodes" / node_id
        folder.mkdir(parents=True)
        made.append(_Site(node_id, DirectoryExchange(tmp_path / "hub", node_id), folder))
        return made[-1]

    def simulated() -> Site:
        """The simulator's, while no fault strikes."""
        hub, node_id = HubFolder(tmp_path / "hub"), f"site-{next(_numbers)}"
        hub.ensure_node(node_id)
        exchange = FaultyExchange(hub, node_id, Faults(0, over=True), NoCrossings())
        made.append(_Site(node_id, exchange, hub.folder(node_id)))
        return made[-1]

    def served(name: str) -> Site:
        hub: HubProcess = request.getfixturevalue(name)
        login = hub.add(f"site-{next(_numbers)}")
        exchange = open_exchange(hub.address(login), login.key, login.node_id)
        made.append(_Site(login.node_id, exchange, hub.folder(login.node_id)))
        return made[-1]

    makers = {
        "directory": directory,
        "simulated": simulated,
        "embedded hub": partial(served, "hub"),
        "sftpgo": partial(served, "sftpgo"),
    }
    yield makers[request.param]
    for site in made:
        site.exchange.close()
