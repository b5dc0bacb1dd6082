"""The short way of polls answers what the careful way answers, and lets nobody in whom that would refuse."""

from typing import Any

import pytest

from coordinator.kit.auth import GRACE_S
from hsl_model.protocol import PROTOCOL_HEADER, transport
from hsl_model.protocol.messages import DesiredRequest, DesiredState
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, Site, enrolled

ASK = DesiredRequest(wait_s=0)


@pytest.fixture
def federation(sqlite_alliance: Alliance) -> Federation:
    return enrolled(sqlite_alliance).begin()


def known(federation: Federation) -> Site:
    """A site whose polls go the short way: its agent is known, and so is its snapshot."""
    site = federation["node-a"]
    assert site.speaker.post(transport.DESIRED, ASK).is_success
    return site


def test_both_ways_answer_the_same(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    site = known(federation)
    short = site.speaker.post(transport.DESIRED, ASK)
    monkeypatch.setattr("coordinator.node_api.polling.recognised", lambda *_: None)
    careful = site.speaker.post(transport.DESIRED, ASK)
    assert short.content == careful.content
    assert DesiredState.model_validate_json(short.content).assignment is not None


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({PROTOCOL_HEADER: "9"}, 426, "protocol_version"),
        ({"Authorization": "Bearer hsln_node-a_wrong"}, 401, "node_token_invalid"),
        ({"Authorization": "Bearer "}, 401, "node_token_invalid"),
        ({transport.BOOT_NUMBER_HEADER: "one"}, 422, "request_invalid"),
        ({transport.BOOT_NUMBER_HEADER: "9" * 30}, 422, "request_invalid"),
        ({transport.BOOT_ID_HEADER: "another"}, 409, "duplicate_instance"),
    ],
)
def test_what_is_not_as_expected_is_refused_by_name(
    federation: Federation, headers: dict[str, str], status: int, code: str
) -> None:
    site = known(federation)
    federation.alliance.clock.advance(GRACE_S + 1)
    reply = site.speaker.post(transport.DESIRED, ASK, **headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "named"), [({"wait_s": 99}, "wait_s"), ({"wait": 1}, "wait"), ({"missing": ["x"]}, "missing.0")]
)
def test_a_body_that_does_not_fit_is_refused_by_the_path_of_its_key(
    federation: Federation, body: dict[str, Any], named: str
) -> None:
    reply = known(federation).speaker.post(transport.DESIRED, body)
    assert (reply.status_code, reply.json()["code"]) == (422, "request_invalid")
    assert reply.json()["detail"].startswith(f"{named}:")


def test_a_restarted_agent_is_known_and_the_one_before_it_is_not(federation: Federation) -> None:
    site = known(federation)
    before = dict(site.speaker.headers)
    site.speaker.restart()
    assert site.speaker.post(transport.DESIRED, ASK).is_success
    federation.alliance.clock.advance(GRACE_S + 1)
    reply = federation.alliance.http.post(transport.DESIRED, json={"wait_s": 0}, headers=before)
    assert (reply.status_code, reply.json()["code"]) == (409, "duplicate_instance")


def test_a_revoked_node_is_told_so_at_its_next_poll(federation: Federation) -> None:
    site = known(federation)
    federation.revoke("node-a")
    reply = site.speaker.post(transport.DESIRED, ASK)
    assert (reply.status_code, reply.json()["code"]) == (403, "node_revoked")
