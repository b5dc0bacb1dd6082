"""Every operation of the coordinator's OpenAPI, with inputs that fit it and inputs that do not.

No 5xx, only documented answers, each of its documented shape, and nothing to be had without a token.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coordinator.app import create_app
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import DesiredState
from hsl_model.protocol.transport import API
from tests.coordinator.conftest import open_alliance, settings_for
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance, NodeSpeaker
from tests.coordinator.rounds.sites import Federation, enrolled
from tests.fuzz.conftest import counted, examples
from tests.fuzz.sending import send, strategies

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LAST = ("/stop", "/revoke")  # after these there is less left to break
DOCUMENT = create_app(settings_for("sqlite:///nowhere/never-opened.db"), hub=MemoryHub()).openapi()
OPERATIONS = sorted(
    (
        (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if method in ("get", "post")
    ),
    key=lambda found: (found[1].endswith(LAST), found[1], found[0]),
)


@dataclass
class Target:
    """An alliance in the middle of a run, and somebody of each kind who may speak to it."""

    federation: Federation
    schema: Any
    node: NodeSpeaker

    @property
    def alliance(self) -> Alliance:
        return self.federation.alliance  # type: ignore[no-any-return]

    def headers(self, path: str) -> dict[str, str]:
        return self.node.headers if path.startswith(f"{API}/node/") else self.alliance.admin.headers

    def known(self, name: str) -> object:
        return {"run_id": self.federation.run_id, "node_id": "node-b", "round_number": 1}.get(name)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Any) -> Iterator[Target]:
    path = tmp_path_factory.mktemp("fuzz") / "coordinator.db"
    shutil.copyfile(sqlite_template, path)
    with open_alliance(f"sqlite:///{path}", ManualClock(), MemoryHub()) as alliance:
        federation = enrolled(alliance).begin().to_fusing(1)
        schema = schemathesis.openapi.from_dict(DOCUMENT)
        yield Target(federation, schema, federation["node-a"].speaker)


def _fuzz(target: Target, method: str, path: str, number: int) -> None:
    operation = target.schema[path][method]
    modes = strategies(operation)

    @examples(number)
    @given(st.data(), st.sampled_from(list(modes)), st.booleans())
    def play(data: Any, mode: Any, is_known: bool) -> None:
        case = data.draw(modes[mode])
        if is_known:  # a random name is never one that exists
            case.path_parameters = {
                name: target.known(name) or value for name, value in (case.path_parameters or {}).items()
            }
        counted("requests to the coordinator")
        reply = send(target.alliance.http, case, target.headers(path))
        case.validate_response(reply, checks=CHECKS)

    play()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_input_breaks_it(target: Target, method: str, path: str) -> None:
    _fuzz(target, method, path, 8)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_input_of_many_breaks_it(target: Target, method: str, path: str) -> None:
    _fuzz(target, method, path, 500)


@pytest.mark.parametrize(
    ("method", "path"),
    [(m, p) for m, p in OPERATIONS if "security" in DOCUMENT["paths"][p][m.lower()]],
)
def test_nothing_without_a_token(target: Target, method: str, path: str) -> None:
    where = path.format(run_id=target.federation.run_id, node_id="node-b", round_number=1)
    for token in (None, "Bearer ", "Bearer hsln_node-a_guess", "Basic YTpi"):
        headers = {name: value for name, value in target.node.headers.items() if name != "Authorization"}
        if token is not None:
            headers["Authorization"] = token
        reply = target.alliance.http.request(method, where, headers=headers)
        assert reply.status_code == 401, reply.text
        assert reply.json()["code"] in ("admin_token_invalid", "node_token_invalid")
        counted("requests without a right")


def test_only_health_and_enrolment_are_open() -> None:
    open_to_all = {p for m, p in OPERATIONS if "security" not in DOCUMENT["paths"][p][m.lower()]}
    assert open_to_all == {"/healthz", "/readyz", f"{API}/enrol", f"{API}/enrol/hub"}


def test_the_alliance_still_works_afterwards(target: Target) -> None:
    """What was thrown at it has left a state that a node can still be told."""
    speaker = target.federation["node-c"].speaker
    reply = speaker.post(f"{API}/node/desired", {"wait_s": 0})
    if reply.status_code == 200:
        DesiredState.model_validate_json(reply.content)
    assert reply.status_code in (200, 403)
