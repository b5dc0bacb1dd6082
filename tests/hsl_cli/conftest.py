from collections.abc import Callable, Iterator

import pytest
import structlog
from typer.testing import CliRunner, Result

from tests.hsl_cli.helpers import FakeService


@pytest.fixture
def coordinator() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture
def hsl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run `hsl` with these arguments; nothing of the surrounding environment reaches it.

    Commands that set up their log write it to a stderr that ends with them: the log of the tests comes back afterwards.
    """
    logging = structlog.get_config()
    for name in ("HSL_URL", "HSL_ADMIN_TOKEN", "HSL_WORKDIR", "HSL_NODE_WORKDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, **keywords: object) -> Result:
        from hsl_cli.main import app

        return CliRunner().invoke(app, [str(one) for one in arguments], **keywords)  # type: ignore[arg-type]

    yield run
    structlog.configure(**logging)


@pytest.fixture
def admin(hsl: Callable[..., Result], coordinator: FakeService) -> Callable[..., Result]:
    """Run an admin command against the coordinator of this test."""
    return lambda *arguments, **keywords: hsl(
        *arguments, "--url", coordinator.url, "--token", "a-token-of-an-admin", **keywords
    )
