"""The same conversation without HTTP: each message calls what its endpoint calls, in a transaction of its own.

Ten times faster than the served application, so that thousands of messages can be tried. `test_rules.py` and
`test_whole_run.py` hold the endpoints themselves.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from coordinator.db import Database
from coordinator.kernel import Kernel
from coordinator.kit.auth import digest_of
from coordinator.kit.guard import guarded_update
from coordinator.node_api import endpoints as node
from coordinator.node_api.desired import desired_for
from coordinator.node_api.polling import remember_missing
from coordinator.node_api.snapshot import Loader, Snapshot
from coordinator.nodes.service import view_of
from coordinator.notifier import Notifier
from coordinator.rounds.explain import Explainer
from coordinator.rounds.moves import Act
from coordinator.rounds.service import RoundViews
from coordinator.rounds.tick import tick
from coordinator.runs import service as runs
from coordinator.tables import EventRow, NodeRow
from hsl_model.protocol import transport
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import DesiredRequest, DesiredState
from hsl_model.protocol.states import NodeStatus
from hsl_model.protocol.transport import API
from tests.coordinator.conftest import settings_for
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.rounds.sites import NODES, Federation, Site


@dataclass(frozen=True)
class Reply:
    """As much of `httpx.Response` as the tests read."""

    status_code: int
    content: bytes = b""

    @property
    def is_success(self) -> bool:
        return self.status_code < 300

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def answer(work: Callable[[], object]) -> Reply:
    """What the endpoint would have sent."""
    try:
        made = work()
    except HslError as error:
        data = {key: value for key, value in error.data.items() if isinstance(value, str | int | float | None)}
        problem = {"code": error.code, "detail": error.sentence(), "data": data}
        return Reply(error.http_status, json.dumps(problem).encode())
    if isinstance(made, JSONResponse):
        return Reply(made.status_code, bytes(made.body))
    return Reply(200, made.model_dump_json().encode()) if isinstance(made, BaseModel) else Reply(204)


@dataclass
class DirectAlliance:
    """One coordinator's kernel; `speaker` makes its enrolled nodes."""

    kernel: Kernel
    clock: ManualClock
    _loader: Loader | None = None
    _held: tuple[int, datetime, Snapshot] | None = None

    @classmethod
    def on(cls, database_url: str, clock: ManualClock) -> "DirectAlliance":
        kernel = Kernel(settings_for(database_url), clock, Database(database_url), MemoryHub(), Notifier())
        return cls(kernel, clock)

    @property
    def admin(self) -> "DirectAdmin":
        return DirectAdmin(self)

    def beat(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        with self.kernel.transaction() as session:
            tick(session, self.clock.now())

    def close(self) -> None:
        self.kernel.database.close()

    def enrol(self, node_id: str) -> "DirectSpeaker":
        key = Ed25519PrivateKey.generate()
        now = self.clock.now()
        with self.kernel.transaction() as session:
            row = NodeRow(
                node_id=node_id,
                display_name=node_id,
                status=NodeStatus.ENROLLED.value,
                signing_public_key=public_key_text(key),
                token_hash=digest_of(node_id),
                created_at=now,
                last_seen_at=now,
            )
            session.add(row)
        return DirectSpeaker(self, node_id, key)

    def snapshot(self) -> Snapshot:
        """As the long poll does: read again only after something was committed."""
        generation = self.kernel.notifier.generation
        now = self.clock.now()
        if self._held is None or self._held[:2] != (generation, now):
            self._loader = self._loader or Loader(self.kernel.settings)
            with self.kernel.snapshot() as session:
                self._held = (generation, now, self._loader.load(session, now))
        return self._held[2]

    def desired(self, node_id: str, request: DesiredRequest) -> DesiredState:
        if request.missing:
            remember_missing(self.kernel, node_id, request)
        return desired_for(node_id, self.snapshot(), self.clock.now())

    def events(self, **where: Any) -> list[EventRow]:
        with self.kernel.snapshot() as session:
            rows = session.query(EventRow).filter_by(**where).order_by(EventRow.event_id).all()
            session.expunge_all()
            return rows

    def event_kinds(self, **where: Any) -> list[str]:
        return [row.kind for row in self.events(**where)]


_NODE_ROUTES: tuple[tuple[str, Callable[..., object]], ...] = (
    (transport.HEARTBEAT, node.heartbeat),
    (transport.PUBLISHED, node.published),
    (transport.accept("(?P<run_id>[^/]+)"), node.accept),
    (transport.withdraw("(?P<run_id>[^/]+)"), node.withdraw),
    (f"{API}/node/runs/(?P<run_id>[^/]+)/rounds/(?P<round_number>[0-9]+)/announce", node.announce),
    (f"{API}/node/runs/(?P<run_id>[^/]+)/rounds/(?P<round_number>[0-9]+)/refusals", node.refuse),
    (f"{API}/node/runs/(?P<run_id>[^/]+)/rounds/(?P<round_number>[0-9]+)/fusion", node.report_fusion),
)


@dataclass
class DirectSpeaker:
    alliance: DirectAlliance
    node_id: str
    signing_key: Ed25519PrivateKey

    def post(self, path: str, body: BaseModel | None = None) -> Reply:
        if path == transport.DESIRED:
            assert isinstance(body, DesiredRequest)
            return answer(lambda: self.alliance.desired(self.node_id, body))
        for pattern, endpoint in _NODE_ROUTES:
            if found := re.fullmatch(pattern, path):
                return answer(lambda: self._call(endpoint, found.groupdict(), body))  # noqa: B023 - called at once
        raise AssertionError(path)

    def _call(self, endpoint: Callable[..., object], where: dict[str, str], body: BaseModel | None) -> object:
        values: dict[str, Any] = dict(where)
        if "round_number" in values:
            values["round_number"] = int(values["round_number"])
        if body is not None:
            values["request"] = body
        kernel = self.alliance.kernel
        with kernel.transaction() as session:
            return endpoint(Act(session, kernel.clock.now(), self.node_id), **values)


@dataclass
class DirectAdmin:
    alliance: DirectAlliance

    def post(self, path: str, body: Any = None) -> Reply:
        kernel, last = self.alliance.kernel, path.rsplit("/", 1)[-1]
        if last not in ("revoke", "runs"):
            return answer(lambda: runs.moved(kernel, "admin", path.split("/")[-2], getattr(runs, last)))
        with kernel.transaction() as session:
            act = Act(session, kernel.clock.now(), "admin")
            if last == "revoke":
                return answer(lambda: self._revoke(act, path.split("/")[-2]))
            assert isinstance(body, RunConfig)
            run_id = runs.create(act, body)
            shown = runs.show(session, Explainer(kernel.settings, act.now), run_id)
            return Reply(201, shown.model_dump_json().encode())

    def _revoke(self, act: Act, node_id: str) -> object:
        allowed = (NodeStatus.ENROLLED,)
        if guarded_update(act.session, NodeRow, node_id, allowed, NodeStatus.REVOKED, revoked_at=act.now):
            act.session.flush()
            tick(act.session, act.now)
        return view_of(act.session.get_one(NodeRow, node_id), act.now, self.alliance.kernel.settings)

    def get(self, path: str, **query: Any) -> Reply:
        kernel, parts = self.alliance.kernel, path.removeprefix(f"{API}/").split("/")
        now = kernel.clock.now()
        explainer = Explainer(kernel.settings, now)
        with kernel.snapshot() as session:
            if len(parts) == 2:
                return answer(lambda: runs.show(session, explainer, parts[1]))
            return answer(lambda: RoundViews(session, parts[1], explainer, now).show(int(parts[3])))


def directly_enrolled(database_url: str, clock: ManualClock, names: Sequence[str] = NODES) -> Federation:
    """Enrolled sites with 60, 120, 180, … training cases, without HTTP."""
    alliance = DirectAlliance.on(database_url, clock)
    sites = {node_id: Site(alliance.enrol(node_id), 60 * (i + 1)) for i, node_id in enumerate(names)}
    return Federation(alliance, sites)
