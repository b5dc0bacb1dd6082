import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests.embedded_hub.helpers import HubProcess, Login
from tests.node_agent.tls import Authority

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """The agent's log would be formatted for a terminal, tracebacks in colour: slow, and nobody reads it here."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.ReturnLoggerFactory(),
    )


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that this process trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def new_login(hub: HubProcess) -> Callable[[], Login]:
    return lambda: hub.add(f"hospital-{next(_numbers)}")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
