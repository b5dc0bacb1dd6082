"""How many inputs: a few in `make test`, many in `make test-long`. The same ones every time."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.coordinator.conftest import (  # noqa: F401 - fixtures
    clock,
    hub,
    plain_logs,
    sqlite_alliance,
    sqlite_template,
    sqlite_url,
)

COUNTS: dict[str, int] = {}
"""What was tried, by input; printed at the end of the session."""


def examples(number: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def counted(name: str) -> None:
    COUNTS[name] = COUNTS.get(name, 0) + 1


@pytest.fixture(scope="session", autouse=True)
def say_counts() -> Iterator[None]:
    yield
    if COUNTS:
        kinds = ", ".join(f"{number} {name}" for name, number in sorted(COUNTS.items()))
        print(f"\nfuzz: {sum(COUNTS.values())} inputs: {kinds}")
