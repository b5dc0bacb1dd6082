"""The coordinator's application with a few endpoints that do nothing but use the kit."""

from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import APIRouter, Path
from pydantic import Field
from sqlalchemy.exc import OperationalError

from coordinator.events import service as events
from coordinator.kit.auth import AdminDep, NodeDep
from coordinator.kit.paging import PagingDep
from coordinator.kit.session import ClockDep, SessionDep, SnapshotDep
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.config import Message, RunConfig
from hsl_model.protocol.errors import HslError
from tests.coordinator.conftest import open_alliance
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance

probe = APIRouter(prefix="/probe")


class TeapotError(HslError):
    code = "teapot"
    http_status = 409
    title = "A teapot"
    template = "Put {amount} spoons in."


class Body(Message):
    amount: int = Field(ge=0)
    config: RunConfig | None = None


@probe.post("/node")
def node(node_id: NodeDep) -> str:
    return node_id


@probe.post("/admin")
def admin(actor: AdminDep) -> str:
    return actor


@probe.post("/write/{kind}")
def write(session: SessionDep, clock: ClockDep, kind: Annotated[str, Path()], fail: bool = False) -> int:
    row = events.append(session, clock, kind, events.ADMIN)
    session.flush()
    if fail:
        raise TeapotError(amount=3)
    return row.event_id


@probe.post("/twice")
def twice(first: SessionDep, second: SessionDep, reader: SnapshotDep) -> bool:
    return first is second and first is not reader


@probe.post("/body")
def body(request: Body) -> None:
    pass


@probe.get("/page")
def page(paging: PagingDep) -> tuple[int, int]:
    return paging.offset, paging.limit


@probe.post("/bug")
def bug() -> None:
    raise RuntimeError("password=letmein at /srv/secret/path")


@probe.post("/lost")
def lost() -> None:
    raise OperationalError("SELECT secret", {}, Exception("server closed the connection"))


@pytest.fixture
def probed(database_url: str, clock: ManualClock, hub: MemoryHub) -> Iterator[Alliance]:
    """On both databases."""
    with open_alliance(database_url, clock, hub, probe) as alliance:
        yield alliance


@pytest.fixture
def probed_on_sqlite(sqlite_url: str, clock: ManualClock, hub: MemoryHub) -> Iterator[Alliance]:
    """For what does not depend on the database."""
    with open_alliance(sqlite_url, clock, hub, probe) as alliance:
        yield alliance
