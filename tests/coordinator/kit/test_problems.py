"""Every error is RFC 9457 problem details with a stable code and a sentence; nothing else leaves."""

from collections.abc import Iterator

import httpx
import pytest

from coordinator.kit.requests import MAX_BODY_BYTES
from hsl_model.protocol.problem import PROBLEM_MEDIA_TYPE, Problem
from tests.coordinator.helpers import Alliance


def problem(reply: httpx.Response, status: int, code: str) -> Problem:
    assert reply.headers["Content-Type"] == PROBLEM_MEDIA_TYPE
    found = Problem.model_validate_json(reply.content)
    assert (reply.status_code, found.status, found.code) == (status, status, code), found.detail
    assert found.type == f"urn:heterosync:problem:{code}"
    assert found.detail
    return found


def test_our_errors_carry_their_data(probed_on_sqlite: Alliance) -> None:
    found = problem(probed_on_sqlite.admin.post("/probe/write/x?fail=1"), 409, "teapot")
    assert (found.detail, found.data) == ("Put 3 spoons in.", {"amount": 3})


CONFIG = {
    "name": "x",
    "nodes": ["alpha", "beta"],
    "method": {"name": "local"},
    "task": {"task_id": "t", "positive_class": "a", "negative_class": "b", "modality": "radiograph"},
}


@pytest.mark.parametrize(
    ("body", "path", "sentence"),
    [
        ({"amount": 1, "amonut": 2}, "amonut", "unknown key"),
        ({}, "amount", "required, but missing"),
        ({"amount": -1}, "amount", "greater than or equal to 0"),
        ({"amount": 1, "config": {**CONFIG, "quorum": {"min_nods": 1}}}, "config.quorum.min_nods", "unknown key"),
        ({"amount": 1, "config": {**CONFIG, "quorum": {"min_nodes": 5}}}, "config", "only 2 nodes are named"),
        ({"amount": 1, "config": {**CONFIG, "method": {"name": "magic"}}}, "config.method", "unknown method 'magic'"),
        ({"amount": 1, "config": {**CONFIG, "nodes": ["../etc"]}}, "config.nodes.0", "match pattern"),
    ],
)
def test_a_wrong_key_is_named_by_its_path(
    probed_on_sqlite: Alliance, body: dict[str, object], path: str, sentence: str
) -> None:
    found = problem(probed_on_sqlite.admin.post("/probe/body", body), 422, "request_invalid")
    assert found.detail.startswith(f"{path}: ")
    assert sentence in found.detail
    assert found.data["path"] == path


def test_input_is_not_repeated_and_a_flood_of_errors_is_cut(probed_on_sqlite: Alliance) -> None:
    found = problem(
        probed_on_sqlite.admin.post("/probe/body", {f"key{n}": "a-secret" for n in range(100)}), 422, "request_invalid"
    )
    assert "a-secret" not in found.model_dump_json()
    assert "and 93 more" in found.detail


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b'"x"', b"\xff\xfe", b'{"amount": NaN}'])
def test_a_body_that_is_not_our_json(probed_on_sqlite: Alliance, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem(probed_on_sqlite.http.post("/probe/body", content=content, headers=headers), 422, "request_invalid")


def test_parameters_are_named_by_where_they_stand(probed_on_sqlite: Alliance) -> None:
    found = problem(probed_on_sqlite.admin.get("/probe/page", limit=0), 422, "request_invalid")
    assert found.detail.startswith("query parameter limit: ")


def test_unknown_paths_and_methods(probed_on_sqlite: Alliance) -> None:
    assert "/nowhere" in problem(probed_on_sqlite.admin.get("/nowhere"), 404, "no_such_path").detail
    reply = probed_on_sqlite.http.delete("/probe/body")
    problem(reply, 405, "method_not_allowed")
    assert reply.headers["Allow"] == "POST"


def test_a_mistake_of_ours_shows_nothing_of_itself(probed_on_sqlite: Alliance) -> None:
    reply = probed_on_sqlite.admin.post("/probe/bug", **{"X-Request-Id": "find-me"})
    found = problem(reply, 500, "internal")
    assert "find-me" in found.detail
    for word in ("letmein", "secret", "RuntimeError", "Traceback"):
        assert word not in reply.text


def test_a_lost_database_is_503(probed_on_sqlite: Alliance) -> None:
    reply = probed_on_sqlite.admin.post("/probe/lost")
    problem(reply, 503, "database_unavailable")
    assert "SELECT" not in reply.text


def test_a_body_that_is_too_large_is_not_read(probed_on_sqlite: Alliance) -> None:
    problem(probed_on_sqlite.http.post("/probe/body", content=b"x" * (MAX_BODY_BYTES + 1)), 413, "body_too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * (MAX_BODY_BYTES // 10)

    reply = probed_on_sqlite.http.post("/probe/body", content=endless(), headers={"Content-Type": "application/json"})
    assert reply.status_code in (413, 422)
    assert reply.headers["Content-Type"] == PROBLEM_MEDIA_TYPE
