"""Every operation of a hospital's site API, with inputs that fit it and inputs that do not.

No 5xx; what is answered has its documented shape, or is a problem with a code and a sentence. Nothing but health
without the token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.problem import Problem
from node_agent.consents import Consents
from node_agent.enrol import load_identity
from node_agent.journal import Journal
from node_agent.mailbox import Mailbox
from node_agent.main import _Agent
from node_agent.site_api import Site, create_site_app
from tests.coordinator.conftest import ServedApp
from tests.fuzz.conftest import counted, examples
from tests.fuzz.sending import send, strategies
from tests.node_agent.alliance import RUN, Alliance, make_config
from tests.node_agent.helpers import FAST, Hospital

TOKEN = "the-token-of-site.json"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@dataclass
class Target:
    """An agent that was invited to a run and whose threads stand still: what is asked stays asked."""

    app: FastAPI
    http: httpx.Client
    hospital: Hospital
    beside: set[Path]  # what lay beside the agent's folder before

    @property
    def document(self) -> dict[str, Any]:
        return self.app.openapi()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("site")
    alliance = Alliance(folder, make_config(), invited=True)
    hospital = Hospital(folder / "a", alliance).join()
    clock, mailbox = ManualClock(), Mailbox(desired=alliance.desired())
    journal = Journal(hospital.settings.journal_path, clock)
    agent = _Agent(hospital.settings, load_identity(hospital.settings), journal, clock, FAST, mailbox)
    context = agent._context(agent._client(alliance.transport()), hospital.exchange)
    app = create_site_app(Site(context, Consents(journal, clock), 1, TOKEN))
    with httpx.Client(transport=ServedApp(app), base_url="http://site") as http:
        yield Target(app, http, hospital, set(folder.iterdir()))
    journal.close()


def operations() -> list[tuple[str, str]]:
    document = create_site_app(None).openapi()  # type: ignore[arg-type] - it is only looked at
    return sorted((method.upper(), path) for path, methods in document["paths"].items() for method in methods)


def fuzz(target: Target, method: str, path: str, number: int) -> None:
    operation = schemathesis.openapi.from_dict(target.document)[path][method]
    modes = strategies(operation)

    @examples(number)
    @given(st.data(), st.sampled_from(list(modes)), st.booleans())
    def play(data: Any, mode: Any, is_known: bool) -> None:
        case = data.draw(modes[mode])
        if is_known and case.path_parameters:
            case.path_parameters = {"run_id": RUN}
        counted("requests to a site")
        reply = send(target.http, case, {"Authorization": f"Bearer {TOKEN}"})
        if reply.status_code < 400:
            case.validate_response(reply, checks=CHECKS)
            return
        assert reply.status_code < 500, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        problem = Problem.model_validate_json(reply.content)
        assert problem.status == reply.status_code
        assert problem.detail

    play()


@pytest.mark.parametrize(("method", "path"), operations())
def test_no_input_breaks_it(target: Target, method: str, path: str) -> None:
    fuzz(target, method, path, 15)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), operations())
def test_no_input_of_many_breaks_it(target: Target, method: str, path: str) -> None:
    fuzz(target, method, path, 500)


@pytest.mark.parametrize(("method", "path"), [one for one in operations() if one[1] != "/healthz"])
def test_nothing_without_the_token(target: Target, method: str, path: str) -> None:
    for token in (None, "", "Bearer ", "Bearer the-token-of-site", f"Basic {TOKEN}"):
        headers = {} if token is None else {"Authorization": token}
        reply = target.http.request(method, path.format(run_id=RUN), headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (401, "site_token_invalid")
        counted("requests without a right")


def test_the_site_still_works_afterwards(target: Target) -> None:
    """Nothing that was thrown at it has left a journal, a binding or a key that the agent cannot read."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/status", "/runs", "/bindings", "/egress"):
        assert target.http.get(path, headers=headers).status_code == 200, path
    load_identity(target.hospital.settings)
    assert set(target.hospital.settings.workdir.parent.iterdir()) == target.beside, (
        "files beside the agent's own folder"
    )
