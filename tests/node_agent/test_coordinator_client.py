from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import DesiredRequest, Heartbeat
from hsl_model.protocol.retry import TRANSIENT, FailureKind
from hsl_model.protocol.states import NodePhase
from node_agent.coordinator_client import STATUS_KINDS, TRANSLATION, Boot, CoordinatorClient, CoordinatorError
from node_agent.egress import EgressLedger
from node_agent.errors import failure_of
from node_agent.journal import Journal
from tests.node_agent.alliance import problem

HEARTBEAT = Heartbeat(phase=NodePhase.IDLE)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[EgressLedger]:
    journal = Journal(tmp_path / "journal.sqlite", ManualClock())
    yield EgressLedger(journal, ManualClock())
    journal.close()


def client(ledger: EgressLedger, reply: httpx.Response | Exception) -> CoordinatorClient:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return CoordinatorClient("http://coordinator", ledger, http_transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectTimeout(""), FailureKind.TIMEOUT),
        (httpx.ReadTimeout(""), FailureKind.TIMEOUT),
        (httpx.WriteTimeout(""), FailureKind.TIMEOUT),
        (httpx.PoolTimeout(""), FailureKind.TIMEOUT),
        (httpx.ConnectError(""), FailureKind.CONNECTION),
        (httpx.ReadError(""), FailureKind.CONNECTION),
        (httpx.WriteError(""), FailureKind.CONNECTION),
        (httpx.CloseError(""), FailureKind.CONNECTION),
        (httpx.ProxyError(""), FailureKind.CONNECTION),
        (httpx.RemoteProtocolError(""), FailureKind.CONNECTION),
        (httpx.LocalProtocolError(""), FailureKind.BUG),
        (httpx.UnsupportedProtocol(""), FailureKind.REJECTED),
        (httpx.DecodingError(""), FailureKind.SERVER_ERROR),
        (httpx.TooManyRedirects(""), FailureKind.REJECTED),
        (httpx.InvalidURL(""), FailureKind.REJECTED),
    ],
)
def test_every_exception_of_the_library_has_a_kind(ledger: EgressLedger, error: Exception, kind: FailureKind) -> None:
    with pytest.raises(CoordinatorError) as caught:
        client(ledger, error).heartbeat(HEARTBEAT)
    assert caught.value.kind is kind
    assert caught.value.sentence().endswith((".", "?"))


def test_no_exception_of_the_library_is_forgotten() -> None:
    """A new httpx with a new exception: this test names it."""
    known = tuple(kind for kind, _ in TRANSLATION)
    families = (httpx.RequestError, httpx.InvalidURL)
    found = [value for value in vars(httpx).values() if isinstance(value, type) and issubclass(value, families)]
    unknown = [value for value in found if not issubclass(value, known) and not value.__subclasses__()]
    assert not unknown


@pytest.mark.parametrize(
    ("reply", "code", "kind"),
    [
        (problem(401, "node_token_invalid"), "node_token_invalid", FailureKind.DENIED),
        (problem(403, "node_revoked"), "node_revoked", FailureKind.DENIED),
        (problem(404, "not_found"), "not_found", FailureKind.REJECTED),
        (problem(409, "duplicate_instance"), "duplicate_instance", FailureKind.LIMIT),
        (problem(409, "plan_superseded"), "plan_superseded", FailureKind.NOT_YET_THERE),
        (problem(409, "round_over"), "round_over", FailureKind.NOT_YET_THERE),
        (problem(409, "already_announced"), "already_announced", FailureKind.REJECTED),
        (problem(422, "update_refused"), "update_refused", FailureKind.REJECTED),
        (problem(426, "protocol_version"), "protocol_version", FailureKind.VERSION),
        (problem(429, "busy"), "busy", FailureKind.SERVER_ERROR),
        (problem(503, "database_unavailable"), "database_unavailable", FailureKind.SERVER_ERROR),
        (httpx.Response(502, text="<html>"), "http_502", FailureKind.SERVER_ERROR),
        (httpx.Response(302, text=""), "http_302", FailureKind.SERVER_ERROR),
        (httpx.Response(413, text="too large"), "http_413", FailureKind.REJECTED),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_refusal_has_a_kind(ledger: EgressLedger, reply: httpx.Response, code: str, kind: FailureKind) -> None:
    with pytest.raises(CoordinatorError) as caught:
        client(ledger, reply).heartbeat(HEARTBEAT)
    assert (caught.value.problem_code, caught.value.kind) == (code, kind)
    assert failure_of(caught.value).code == code


def test_an_outdated_protocol_waits_for_the_upgrade() -> None:
    assert TRANSIENT[STATUS_KINDS[426]]


def test_a_problems_data_can_be_asked_for(ledger: EgressLedger) -> None:
    with pytest.raises(CoordinatorError) as caught:
        client(ledger, problem(409, "already_announced", accepted_sha256="ab")).heartbeat(HEARTBEAT)
    assert caught.value.details == {"accepted_sha256": "ab"}
    assert caught.value.sentence() == "Because of already_announced."


def test_a_login_page_that_answers_200_is_worth_another_try(ledger: EgressLedger) -> None:
    with pytest.raises(CoordinatorError) as caught:
        client(ledger, httpx.Response(200, text="<html>Log in</html>")).desired(DesiredRequest(wait_s=0))
    assert TRANSIENT[caught.value.kind]


def test_every_request_carries_version_identity_and_boot(ledger: EgressLedger) -> None:
    seen: list[httpx.Headers] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(204)

    speaking = CoordinatorClient(
        "http://coordinator",
        ledger,
        token=lambda: "hsln_a",
        boot=Boot(7, "b00t"),
        http_transport=httpx.MockTransport(handle),
    )
    speaking.heartbeat(HEARTBEAT)
    (headers,) = seen
    assert headers["X-HSL-Protocol"] == "1"
    assert headers["Authorization"] == "Bearer hsln_a"
    assert (headers["X-HSL-Boot"], headers["X-HSL-Boot-Id"]) == ("7", "b00t")


def test_a_broken_address_says_what_to_check(ledger: EgressLedger) -> None:
    with pytest.raises(CoordinatorError) as caught:
        CoordinatorClient("http://coordinator:eighty", ledger)
    assert "HSL_NODE_COORDINATOR_URL" in caught.value.sentence()
