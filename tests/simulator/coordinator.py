"""The coordinator as a process that can die: its real kernel, authentication, messages, endpoints and beat on SQLite,
without the sockets. What a request does is done in one go, as SQLite's single writer has it; the long poll waits.

    serve: protocol version ─> `kit.auth` ─> body validated ─> endpoint in its transaction ─> reply
                                 die before the commit: nothing happened. After it: it happened, and nobody was told
"""

import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import httpx
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ValidationError
from sqlalchemy import event
from sqlalchemy.orm import Session

from coordinator.db import Database
from coordinator.kernel import Kernel
from coordinator.kit import auth
from coordinator.kit.problems import RequestInvalidError, problem_response, sentence_of
from coordinator.node_api import endpoints as node_endpoints
from coordinator.node_api.attendance import WRITE_EVERY_S, Attendance, recognised
from coordinator.node_api.desired import Told, told
from coordinator.node_api.polling import MAX_AGE_S, Held, _known_wants, remember_missing
from coordinator.node_api.snapshot import Loader
from coordinator.notifier import Notifier
from coordinator.rounds.moves import Act
from coordinator.schedule import Beat
from hsl_model.protocol import PROTOCOL_HEADER, transport
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.messages import DesiredRequest
from tests.coordinator.conftest import settings_for
from tests.simulator.files import HubFolder
from tests.simulator.scheduler import Scheduler, Wake

Value = TypeVar("Value")
BEAT_S = 30.0  # virtual; the real one beats every second, which only costs steps here
_POLL = transport.DESIRED
ROUTES = [route for route in node_endpoints.router.routes if isinstance(route, APIRoute)]


class DiedError(BaseException):
    """The coordinator's process is gone."""


@dataclass
class Fuse:
    """How many more instants around commits it survives; None: all of them."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise DiedError


class SimulatedDatabase(Database):
    """Dies before a commit when its fuse has burnt down. One for all seeds: what SQLAlchemy has compiled stays."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.fuse = Fuse()
        event.listen(self.engine, "commit", lambda _: self.fuse.burn())


class SimulatedKernel(Kernel):
    """Dies after a commit, too."""

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with super().transaction() as session:
            yield session
        assert isinstance(self.database, SimulatedDatabase)
        self.database.fuse.burn()


class WakingNotifier(Notifier):
    def __init__(self, changed: Wake) -> None:
        super().__init__()
        self._wake_pollers = changed

    def changed(self) -> None:
        super().changed()
        self._wake_pollers.notify_all()


@dataclass
class Coordinator:
    database: SimulatedDatabase
    scheduler: Scheduler
    hub: HubFolder
    changed: Wake = field(default_factory=Wake)
    kernel: Kernel | None = None
    num_starts: int = 0
    _held: Held | None = None
    _loader: Loader | None = None
    _seen: dict[str, datetime] = field(default_factory=dict)
    _attended_s: float = -WRITE_EVERY_S

    @property
    def fuse(self) -> Fuse:
        return self.database.fuse

    @property
    def is_up(self) -> bool:
        return self.kernel is not None

    def start(self) -> None:
        notifier = WakingNotifier(self.changed)
        settings = settings_for(self.database.engine.url.render_as_string())
        self.kernel = SimulatedKernel(settings, self.scheduler, self.database, self.hub, notifier)
        self._loader, self._held = Loader(settings), None
        self._seen, self._attended_s = {}, self.scheduler.now_s - WRITE_EVERY_S
        self.num_starts += 1
        self.scheduler.start("coordinator", "coordinator.beat", partial(self._beats, self.kernel))

    def die(self) -> None:
        kernel, self.kernel = self.kernel, None
        if kernel is None:
            return
        self.scheduler.note("coordinator: dies")
        kernel.database.close()
        self.fuse.left = None
        self.changed.notify_all()

    def close(self) -> None:
        self.fuse.left = None
        if self.kernel is not None:
            self.kernel.database.close()

    def _beats(self, kernel: Kernel) -> None:
        beat = Beat(kernel)
        while self.kernel is kernel:
            try:
                beat()
            except DiedError:
                self.die()
                return
            self.scheduler.sleep(BEAT_S)

    def guarded(self, work: Callable[[], Value]) -> Value:
        """Raises what a client sees when the process is not there, or goes away meanwhile."""
        if self.kernel is None:
            raise httpx.ConnectError("nobody listens")
        try:
            return work()
        except DiedError as error:
            self.die()
            raise httpx.ReadError("the connection was reset") from error

    # --- requests ----------------------------------------------------------------------------------------------------

    def serve(self, path: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        try:
            return self.guarded(lambda: self._serve(path, headers, body))
        except HslError as error:
            return _sent(problem_response(error))

    def _serve(self, path: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        kernel = self.kernel
        assert kernel is not None
        _finish(auth.check_protocol(headers.get(PROTOCOL_HEADER)))
        boot = auth.Boot(int(headers[transport.BOOT_NUMBER_HEADER]), headers[transport.BOOT_ID_HEADER])
        scheme, _, token = headers["authorization"].partition(" ")
        known = recognised(self._snapshot().snapshot, token, boot, kernel.clock.now()) if path == _POLL else None
        node_id = known or auth._node(
            kernel, None, HTTPAuthorizationCredentials(scheme=scheme, credentials=token), boot
        )
        if known is not None:
            self._attend(known)
        if path == _POLL:
            return httpx.Response(200, content=self._poll(node_id, _parsed(DesiredRequest, body)).body())
        route, values = _route_of(path)
        if (kind := _BODIES[route.path]) is not None:
            values["request"] = _parsed(kind, body)
        with kernel.transaction() as session:
            made = route.endpoint(Act(session, kernel.clock.now(), node_id), **values)
        if isinstance(made, JSONResponse):
            return _sent(made)
        return httpx.Response(200, content=made.model_dump_json()) if made is not None else httpx.Response(204)

    def _attend(self, node_id: str) -> None:
        assert self.kernel is not None
        self._seen[node_id] = self.scheduler.now()
        if self.scheduler.now_s - self._attended_s >= WRITE_EVERY_S:
            seen, self._seen, self._attended_s = self._seen, {}, self.scheduler.now_s
            Attendance(self.kernel)._write(seen)

    def _poll(self, node_id: str, wish: DesiredRequest) -> Told:
        """`LongPoll.answer` without an event loop."""
        kernel, clock = self.kernel, self.scheduler
        assert kernel is not None
        if set(wish.missing) != _known_wants(self._snapshot().snapshot, node_id):
            remember_missing(kernel, node_id, wish)
        give_up_s = clock.monotonic() + wish.wait_s
        while True:
            found = told(node_id, self._snapshot().snapshot, clock.now())
            left_s = give_up_s - clock.monotonic()
            if found.version != wish.known_version or left_s <= 0:
                return found
            clock.wait(self.changed, left_s)
            if self.kernel is not kernel:
                raise httpx.ReadError("the connection was reset")

    def _snapshot(self) -> Held:
        assert self.kernel is not None
        assert self._loader is not None
        generation, now_s = self.kernel.notifier.generation, self.scheduler.monotonic()
        if self._held is None or self._held.generation != generation or now_s - self._held.read_at > MAX_AGE_S:
            with self.kernel.snapshot() as session:
                self._held = Held(generation, self._loader.load(session, self.scheduler.now()), now_s)
        return self._held


def _body_of(route: APIRoute) -> type[BaseModel] | None:
    parameter = inspect.signature(route.endpoint).parameters.get("request")
    return None if parameter is None else parameter.annotation


_BODIES = {route.path: _body_of(route) for route in ROUTES}


def _route_of(path: str) -> tuple[APIRoute, dict[str, Any]]:
    for route in ROUTES:
        if found := re.match(route.path_regex, path):
            values: dict[str, Any] = found.groupdict()
            if "round_number" in values:
                values["round_number"] = int(values["round_number"])
            return route, values
    raise LookupError(path)


def _parsed(kind: type[Any], body: bytes) -> Any:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        sentences = "; ".join(sentence_of({**found, "loc": ("body", *found["loc"])}) for found in error.errors())
        raise RequestInvalidError(sentences=sentences) from error


def _finish(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Of a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise RuntimeError("it waits")


def _sent(reply: JSONResponse) -> httpx.Response:
    return httpx.Response(reply.status_code, content=bytes(reply.body))
