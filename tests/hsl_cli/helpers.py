"""A coordinator of cardboard: answers what it was told to, and remembers what it was asked."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from hsl_model.protocol.config import RunConfig, TaskConfig
from hsl_model.protocol.manifest import UpdateMetrics
from hsl_model.protocol.messages import (
    ClassCounts,
    FusionPlan,
    PlanEntry,
    Progress,
    RoundCosts,
    TruthCounts,
    ValidationMetrics,
)
from hsl_model.protocol.states import (
    MembershipStatus,
    NodeHealth,
    NodePhase,
    NodeStatus,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)
from hsl_model.protocol.views import MemberView, NodeView, ParticipationView, RoundView, RunView

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 12, 2, 5, tzinfo=UTC)


class FakeService:
    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                service.asked.append((self.command, self.path, body, dict(self.headers)))
                given = service.answers.get((self.command, self.path.partition("?")[0]), [(404, problem("not_found"))])
                status, answer = given.pop(0) if len(given) > 1 else given[0]
                raw = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = _answer
            do_POST = _answer

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def on(self, method: str, path: str, *answers: Any, status: int = 200) -> None:
        """Each answer once, the last one for ever."""
        given = [one.model_dump(mode="json") if hasattr(one, "model_dump") else one for one in answers]
        self.answers[(method, path)] = [(status, one) for one in given]

    def on_page(self, path: str, *items: Any) -> None:
        plain = [item.model_dump(mode="json") for item in items]
        self.on("GET", path, {"items": plain, "total": len(plain), "offset": 0, "limit": 100})

    def __enter__(self) -> "FakeService":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def problem(code: str, detail: str = "There is no such thing; look at the list.", status: int = 404) -> dict[str, Any]:
    return {"type": f"about:{code}", "title": code, "status": status, "detail": detail, "code": code, "data": {}}


def digest(letter: str) -> str:
    return letter * 64


def a_config(num_rounds: int = 2, nodes: tuple[str, ...] = ("site-1", "site-2")) -> RunConfig:
    task = TaskConfig(task_id="bones", positive_class="fracture", negative_class="none", modality="radiograph")
    return RunConfig(name="bones in winter", task=task, nodes=nodes, num_rounds=num_rounds, sat_digest=digest("e"))


def a_run(status: RunStatus = RunStatus.RUNNING, round_number: int | None = 1, **changed: Any) -> RunView:
    config = changed.pop("config", a_config())
    counts = TruthCounts(
        training=ClassCounts(positive=3, negative=7),
        validation=ClassCounts(positive=1, negative=2),
        test=ClassCounts(positive=1, negative=2),
    )
    given: dict[str, Any] = {
        "run_id": "run-0000aaaa",
        "name": config.name,
        "status": status,
        "reason": None,
        "waiting": None,
        "round_number": round_number,
        "num_rounds": config.num_rounds,
        "best_round": None,
        "best_mean_auc": None,
        "config": config,
        "members": tuple(
            MemberView(node_id=node_id, status=MembershipStatus.ACCEPTED, counts=counts) for node_id in config.nodes
        ),
        "created_at": NOON,
        "started_at": NOON,
        "finished_at": None,
    }
    return RunView(**{**given, **changed})


def a_node(node_id: str, phase: NodePhase | None = NodePhase.TRAINING, **changed: Any) -> NodeView:
    given: dict[str, Any] = {
        "node_id": node_id,
        "display_name": node_id,
        "status": NodeStatus.ENROLLED,
        "health": NodeHealth.ONLINE,
        "phase": phase,
        "run_id": "run-0000aaaa",
        "round_number": 1,
        "progress": Progress(unit="steps", done=3, total=9),
        "waiting": None,
        "failure": None,
        "paused_by_site": False,
        "duplicate_instance": False,
        "boot_number": 1,
        "last_seen_s": 0.5,
        "signing_public_key": None,
        "created_at": NOON,
        "enrolled_at": NOON,
        "revoked_at": None,
    }
    return NodeView(**{**given, **changed})


def a_participation(node_id: str, fused: str | None, after: float | None = 0.75, **changed: Any) -> ParticipationView:
    given: dict[str, Any] = {
        "node_id": node_id,
        "status": ParticipationStatus.FUSED,
        "reason": None,
        "update_sha256": digest("a"),
        "update_bytes": 4_000_000,
        "num_cases": 120,
        "weight": 0.5,
        "metrics": UpdateMetrics(validation_auc=0.625, shared_epoch=2, num_steps=30),
        "fused_digest": fused,
        "plan_version": 1,
        "validation": ValidationMetrics(auc=after, num_cases=20),
        "costs": RoundCosts(
            bytes_up=4_000_000,
            bytes_down=8_000_000,
            phase_seconds={NodePhase.TRAINING: 12.5, NodePhase.FUSING: 0.25},
        ),
    }
    return ParticipationView(**{**given, **changed})


def a_round(number: int, *participations: ParticipationView, fused: str | None, **changed: Any) -> RoundView:
    entry = PlanEntry(
        node_id="site-1",
        update_sha256=digest("a"),
        update_bytes=4_000_000,
        manifest_sha256=digest("b"),
        weight=1.0,
        num_cases=120,
    )
    given: dict[str, Any] = {
        "run_id": "run-0000aaaa",
        "round_number": number,
        "status": RoundStatus.COMPLETED,
        "reason": None,
        "waiting": None,
        "plan": FusionPlan(run_id="run-0000aaaa", round_number=number, version=1, entries=(entry,)),
        "fused_digest": fused,
        "fused_file_sha256": fused,
        "mean_auc": 0.75,
        "participations": participations,
        "opened_at": NOON,
        "frozen_at": NOON,
        "completed_at": LATER,
        "deadline_in_s": None,
    }
    return RoundView(**{**given, **changed})
