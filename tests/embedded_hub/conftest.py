"""One hub process for all tests that need no hub of their own; each test adds nodes of its own."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.embedded_hub.helpers import HubProcess, Login


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def new_node(hub: HubProcess, _numbers: Iterator[int]) -> Callable[[], Login]:
    return lambda: hub.add(f"node-{next(_numbers)}")


@pytest.fixture
def private_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that the test may stop and kill."""
    with HubProcess(tmp_path / "hub") as running:
        yield running
