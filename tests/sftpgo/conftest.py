"""One SFTPGo for all tests that need none of their own; each test adds nodes of its own."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.embedded_hub.helpers import Login
from tests.sftpgo.helpers import SftpgoProcess

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def sftpgo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpgoProcess]:
    with SftpgoProcess(tmp_path_factory.mktemp("sftpgo")) as running:
        yield running


@pytest.fixture
def new_node(sftpgo: SftpgoProcess) -> Callable[[], Login]:
    return lambda: sftpgo.add(f"node-{next(_numbers)}")


@pytest.fixture
def private_sftpgo(tmp_path: Path) -> Iterator[SftpgoProcess]:
    """One that the test may stop, kill and restart."""
    with SftpgoProcess(tmp_path / "hub") as running:
        yield running
