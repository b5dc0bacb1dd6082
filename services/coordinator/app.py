"""The composition root: settings, clock and hub in, one FastAPI application out. Nothing else builds these parts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

import coordinator.events.endpoints
import coordinator.health
import coordinator.ledger.endpoints
import coordinator.node_api.endpoints
import coordinator.nodes.endpoints
import coordinator.rounds.endpoints
import coordinator.runs.endpoints
from coordinator.db import Database
from coordinator.hub.admin import HubAdmin
from coordinator.hub.embedded import EmbeddedHubAdmin
from coordinator.hub.sftpgo import SftpgoHubAdmin
from coordinator.hub.sftpgo_user import NodeLimits
from coordinator.kernel import Kernel
from coordinator.kit.openapi import describe
from coordinator.kit.problems import install_problems
from coordinator.kit.requests import RequestEnvelope
from coordinator.ledger.mark import MarkReplies
from coordinator.ledger.service import load_mark
from coordinator.migrations.upgrade import upgrade_database
from coordinator.notifier import Notifier
from coordinator.schedule import start_schedule
from coordinator.settings import CoordinatorSettings
from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.transport import API

DOMAINS = (
    coordinator.nodes.endpoints,
    coordinator.runs.endpoints,
    coordinator.rounds.endpoints,
    coordinator.node_api.endpoints,
    coordinator.events.endpoints,
    coordinator.ledger.endpoints,
)


def create_app(settings: CoordinatorSettings, *, clock: Clock | None = None, hub: HubAdmin | None = None) -> FastAPI:
    """The coordinator. Its parts hang together in `app.state.kernel`; its schedule runs from start to shutdown."""
    kernel = _kernel(settings, clock or SystemClock(), hub)
    app = FastAPI(
        title="HeteroSync coordinator",
        description=__doc__,
        openapi_url=f"{API}/openapi.json",
        lifespan=_lifespan,
    )
    app.state.kernel = kernel
    app.add_middleware(RequestEnvelope, clock=kernel.clock)
    app.add_middleware(MarkReplies, newest=kernel.mark)
    install_problems(app)
    for domain in DOMAINS:
        app.include_router(domain.router)
    app.include_router(coordinator.health.router)
    describe(app)
    return app


def _kernel(settings: CoordinatorSettings, clock: Clock, hub: HubAdmin | None) -> Kernel:
    closes: tuple[Callable[[], None], ...] = ()
    if hub is None:
        hub = made = _hub(settings)
        closes = (made.close,)
    database = Database(settings.resolved_database_url)
    return Kernel(settings, clock, database, hub, Notifier(), closes)


def _hub(settings: CoordinatorSettings) -> EmbeddedHubAdmin | SftpgoHubAdmin:
    url, token = settings.hub_admin_url, settings.hub_admin_token.get_secret_value()
    if settings.hub_kind == "embedded":
        return EmbeddedHubAdmin(url, token)
    return SftpgoHubAdmin(url, token, NodeLimits(settings.hub_quota_bytes, settings.hub_allowed_addresses))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    kernel: Kernel = app.state.kernel
    await run_in_threadpool(upgrade_database, kernel.database)
    await run_in_threadpool(load_mark, kernel)
    schedule = start_schedule(kernel)
    try:
        yield
    finally:
        kernel.notifier.close()
        await run_in_threadpool(schedule.shutdown)
        kernel.close()
