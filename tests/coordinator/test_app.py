"""The application as a whole: what it imports, what it documents, whom it lets in, how it feels."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.app import create_app
from coordinator.tables import NodeRow, RunRow
from hsl_model.protocol.problem import Problem
from hsl_model.protocol.transport import API, BOOT_ID_HEADER, BOOT_NUMBER_HEADER, ENROL, HUB_PLACE
from tests.coordinator.conftest import settings_for
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance

OPEN = {"/healthz", "/readyz", HUB_PLACE}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(settings_for("sqlite:///unused.db"), hub=MemoryHub()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield method, path, operation


def test_the_coordinator_is_light() -> None:
    heavy = {"torch", "torchvision", "numpy", "paramiko", "PIL", "sklearn"}
    code = f"import coordinator.app, coordinator.main, sys; print(*({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


@pytest.mark.parametrize(
    "path",
    [
        "/runs", "/runs/{run_id}", "/runs/{run_id}/start", "/runs/{run_id}/pause", "/runs/{run_id}/resume",
        "/runs/{run_id}/stop", "/runs/{run_id}/rounds", "/runs/{run_id}/rounds/{round_number}", "/nodes",
        "/nodes/{node_id}", "/nodes/{node_id}/revoke", "/nodes/{node_id}/release", "/nodes/{node_id}/code", "/events",
        "/enrol", "/enrol/hub", "/node/desired", "/node/heartbeat", "/node/published", "/node/runs/{run_id}/accept",
        "/node/runs/{run_id}/withdraw", "/node/runs/{run_id}/rounds/{round_number}/announce",
        "/node/runs/{run_id}/rounds/{round_number}/refusals", "/node/runs/{run_id}/rounds/{round_number}/fusion",
    ],
)  # fmt: skip
def test_every_path_of_the_contract_is_served(document: dict[str, Any], path: str) -> None:
    assert f"{API}{path}" in document["paths"]


def test_every_operation_documents_its_errors_as_problems(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["tags"], (method, path)
        errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert set(errors) >= _expected_errors(path), (method, path)
        for status, answer in errors.items():
            assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            assert "`" in answer["description"], f"{method} {path} {status} names no code: {answer['description']}"


def _expected_errors(path: str) -> set[str]:
    expected = {"422", "500", "503"}
    if path not in OPEN and path != ENROL:
        expected.add("401")
    if path.startswith(f"{API}/node/"):
        return expected | {"403", "409", "426"}
    return expected | ({"404"} if "{" in path else set())


def test_the_document_has_no_shape_of_an_error_but_ours(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert set(schemas["Problem"]["properties"]) == set(Problem.model_fields)


def test_nobody_gets_in_without_a_token(sqlite_alliance: Alliance, document: dict[str, Any]) -> None:
    for method, path, _ in operations(document):
        concrete = path.replace("{run_id}", "run-1").replace("{node_id}", "alpha").replace("{round_number}", "1")
        expected = 200 if path in OPEN else 422 if path == ENROL else 401  # a code is the key to enrolment
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            boot = {BOOT_NUMBER_HEADER: "1", BOOT_ID_HEADER: "b"}
            sent = {**sqlite_alliance.stranger.headers, **boot, **headers}
            reply = sqlite_alliance.http.request(method, concrete, headers=sent)
            assert reply.status_code == expected, (method, path, reply.text)


def test_ready_says_what_is_missing(alliance: Alliance) -> None:
    assert alliance.http.get("/healthz").json() == {"alive": True}
    assert alliance.http.get("/readyz").json() == {"database": True, "hub": True}
    alliance.hub.is_down = True
    reply = alliance.http.get("/readyz")
    assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
    assert reply.json()["data"] == {"database": True, "hub": False}
    assert alliance.http.get("/healthz").status_code == 200


def test_a_tick_that_fails_does_not_end_the_schedule(alliance: Alliance) -> None:
    """One run with a config nobody can read must not keep the hub, or the next tick, from being served."""
    alliance.enrol("alpha")
    with alliance.kernel.transaction() as session:
        now = alliance.clock.now()
        session.add(
            RunRow(run_id="bad", name="bad", status="running", config={"no": 1}, created_at=now, started_at=now)
        )
        session.get_one(NodeRow, "alpha").hub_ready_at = None
    alliance.hub.keys.clear()
    alliance.beat()
    assert "alpha" in alliance.hub.keys


ODD = ("99999999999999999999999", "-1", "a%00b", "..%2F..%2Fetc", "%F0%9F%92%A9", "x" * 3000)


def test_odd_values_in_paths_and_queries_are_refused_and_break_nothing(
    alliance: Alliance, document: dict[str, Any]
) -> None:
    node = alliance.enrol("alpha")
    for method, path, operation in operations(document):
        names = [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] != "header"]
        speaker = node if path.startswith(f"{API}/node/") else alliance.admin
        for odd in ODD if names else ():
            concrete = re.sub(r"\{\w+\}", odd, path)
            query = "&".join(f"{name}={odd}" for name in names if f"{{{name}}}" not in path)
            reply = alliance.http.request(method, f"{concrete}?{query}", headers=speaker.headers)
            assert reply.status_code < 500, (method, path, odd, reply.text)
