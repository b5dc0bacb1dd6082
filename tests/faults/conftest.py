"""A real SFTPGo, toxiproxy, and the counts of what was tried."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.db import Database
from coordinator.migrations.upgrade import upgrade_database
from tests.counting import counter_of
from tests.faults.journeys import Node
from tests.faults.line import Line
from tests.faults.toxiproxy import Toxiproxy
from tests.node_agent.exchange.helpers import MIB, Content, make_content
from tests.sftpgo.helpers import SftpgoProcess

NUM_BYTES = 2 * MIB + 12_345
_numbers = itertools.count(1)


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    yield from counter_of(request, "wire faults")


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coordinator") / "empty.db"
    database = Database(f"sqlite:///{path}")
    upgrade_database(database)
    database.close()
    return path


@pytest.fixture
def new_database(_empty_database: Path, tmp_path: Path) -> Callable[[], str]:
    """URLs of databases of a coordinator, with tables and without rows."""

    def make() -> str:
        path = tmp_path / f"coordinator-{next(_numbers)}.db"
        for suffix in ("", "-wal"):
            if (found := Path(f"{_empty_database}{suffix}")).exists():
                shutil.copyfile(found, f"{path}{suffix}")
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="session")
def sftpgo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpgoProcess]:
    with SftpgoProcess(tmp_path_factory.mktemp("sftpgo")) as running:
        yield running


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    with Toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as running:
        yield running


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return make_content(tmp_path_factory.mktemp("content"), NUM_BYTES)


@pytest.fixture
def line(sftpgo: SftpgoProcess) -> Iterator[Line]:
    with Line(sftpgo.port) as running:
        yield running


@pytest.fixture
def new_node(sftpgo: SftpgoProcess) -> Iterator[Callable[[int], Node]]:
    """Nodes whose line leads to the given port."""
    made: list[Node] = []

    def make(port: int, hub: SftpgoProcess = sftpgo) -> Node:
        made.append(Node(hub, hub.add(f"node-{next(_numbers)}"), port))
        return made[-1]

    yield make
    for node in made:
        node.drop()


@pytest.fixture
def node(new_node: Callable[[int], Node], line: Line) -> Node:
    return new_node(line.port)
