"""A coordinator on SQLite and on PostgreSQL, with a clock that moves when told and a hub in memory.

Fixtures: `alliance` (the application behind HTTP, on both databases), `database` (tables only, on both), `clock`,
`hub`. Each test begins with empty tables.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import APIRouter
from sqlalchemy import create_engine, make_url, text, update

from coordinator.app import create_app
from coordinator.db import Database
from coordinator.migrations.upgrade import upgrade_database
from coordinator.settings import CoordinatorSettings
from coordinator.tables import Base, LedgerRow
from hsl_model.protocol.clock import ManualClock
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import ADMIN_TOKEN, HUB_TOKEN, Alliance
from tests.coordinator.served import ServedApp

DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Without a process that configures logging, structlog would draw every traceback in colours, for seconds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database(f"sqlite:///{path}")
    upgrade_database(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    database.close()
    return path


@pytest.fixture(scope="session")
def postgresql_database_url(postgresql_url: str) -> str:
    """One database with the newest schema for all tests; `database_url` empties it for each."""
    server = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE hsl_tests"))
    server.dispose()
    url = make_url(postgresql_url).set(database="hsl_tests").render_as_string(hide_password=False)
    database = Database(url)
    upgrade_database(database)
    database.close()
    return url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "coordinator.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    url = str(request.getfixturevalue("postgresql_database_url"))
    engine = create_engine(url)
    with engine.begin() as connection:
        names = ", ".join(table.name for table in Base.metadata.sorted_tables if table is not LedgerRow.__table__)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        connection.execute(update(LedgerRow).values(generation=1, held_since=None, held_because=None))
    engine.dispose()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def settings_for(database_url: str) -> CoordinatorSettings:
    return CoordinatorSettings(
        database_url=database_url,
        admin_token=ADMIN_TOKEN,
        hub_admin_url="http://127.0.0.1:9",
        hub_admin_token=HUB_TOKEN,
        tick_interval_s=3600.0,  # tests beat by hand
    )


@contextmanager
def open_alliance(url: str, clock: ManualClock, hub: MemoryHub, *routers: APIRouter) -> Iterator[Alliance]:
    app = create_app(settings_for(url), clock=clock, hub=hub)
    for router in routers:
        app.include_router(router)
    with httpx.Client(transport=ServedApp(app), base_url="http://coordinator") as http:
        yield Alliance(http, app.state.kernel, clock, hub)


@pytest.fixture
def alliance(database_url: str, clock: ManualClock, hub: MemoryHub) -> Iterator[Alliance]:
    """On both databases."""
    with open_alliance(database_url, clock, hub) as alliance:
        yield alliance


@pytest.fixture
def sqlite_alliance(sqlite_url: str, clock: ManualClock, hub: MemoryHub) -> Iterator[Alliance]:
    """For what does not depend on the database."""
    with open_alliance(sqlite_url, clock, hub) as alliance:
        yield alliance
