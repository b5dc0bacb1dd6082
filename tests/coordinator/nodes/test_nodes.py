"""Nodes as the admin sees and moves them."""

import pytest
from sqlalchemy import update

from coordinator.tables import NodeRow
from hsl_model.protocol.messages import DesiredRequest
from hsl_model.protocol.transport import API, DESIRED
from hsl_model.protocol.views import NodeCreated, NodeView, Page
from tests.coordinator.helpers import Alliance

NODES = f"{API}/nodes"
LOOK = DesiredRequest(wait_s=0)


def listed(alliance: Alliance, **query: str) -> list[str]:
    reply = alliance.admin.get(NODES, **query)
    assert reply.status_code == 200, reply.text
    return [node.node_id for node in Page[NodeView].model_validate_json(reply.content).items]


def test_a_created_node_answers_its_code_once(alliance: Alliance) -> None:
    reply = alliance.admin.post(NODES, {"node_id": "alpha", "display_name": "St. Alpha"})
    made = NodeCreated.model_validate_json(reply.content)
    assert (made.node_id, made.expires_in_s) == ("alpha", 7 * 86400)
    assert len(made.code.replace("-", "")) == 20
    shown = alliance.admin.get(f"{NODES}/alpha")
    view = NodeView.model_validate_json(shown.content)
    assert (view.status, view.health, view.display_name) == ("created", "never_seen", "St. Alpha")
    assert made.code not in shown.text


def test_codes_differ(sqlite_alliance: Alliance) -> None:
    assert len({sqlite_alliance.add(f"node-{n}") for n in range(20)}) == 20


def test_a_node_is_created_once(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    reply = alliance.admin.post(NODES, {"node_id": "alpha"})
    assert (reply.status_code, reply.json()["code"]) == (409, "node_exists")
    assert "--new-code" in reply.json()["detail"]
    assert code not in reply.text


@pytest.mark.parametrize("node_id", ["", "Alpha", "a_b", "../etc", "a" * 33, "-a", "a b", "a/b", "a\x00", 7, None])
def test_ids_that_would_not_fit_the_hub_are_refused(sqlite_alliance: Alliance, node_id: object) -> None:
    reply = sqlite_alliance.admin.post(NODES, {"node_id": node_id})
    assert (reply.status_code, reply.json()["code"]) == (422, "request_invalid")
    assert reply.json()["detail"].startswith("node_id: ")


def test_health_is_computed_from_the_last_contact(alliance: Alliance) -> None:
    node = alliance.enrol("alpha")
    alliance.add("beta")
    node.post(DESIRED, LOOK)
    for seconds, health in ((0, "online"), (90, "online"), (0.5, "late"), (209.5, "late"), (0.5, "lost")):
        alliance.clock.advance(seconds)
        view = NodeView.model_validate_json(alliance.admin.get(f"{NODES}/alpha").content)
        assert view.health == health, view.last_seen_s
        for other in ("online", "late", "lost"):
            assert listed(alliance, health=other) == (["alpha"] if other == health else [])
        assert listed(alliance, health="never_seen") == ["beta"]
    node.post(DESIRED, LOOK)
    assert listed(alliance, health="online") == ["alpha"]


def test_lists_are_filtered_by_status(alliance: Alliance) -> None:
    alliance.add("gamma")
    for name in ("beta", "alpha"):
        alliance.enrol(name)
    alliance.admin.post(f"{NODES}/beta/revoke")
    assert listed(alliance) == ["alpha", "beta", "gamma"]
    assert listed(alliance, status="created") == ["gamma"]
    assert listed(alliance, status="enrolled") == ["alpha"]
    assert listed(alliance, status="revoked") == ["beta"]
    assert alliance.admin.get(NODES, status="dead").status_code == 422


@pytest.mark.parametrize("verb", ["", "/revoke", "/release", "/code"])
def test_an_unknown_node_is_not_found(sqlite_alliance: Alliance, verb: str) -> None:
    path = f"{NODES}/nobody{verb}"
    reply = sqlite_alliance.admin.post(path) if verb else sqlite_alliance.admin.get(path)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert "'nobody'" in reply.json()["detail"]


def test_revoking_ends_everything_at_once_and_stays(alliance: Alliance) -> None:
    node = alliance.enrol("alpha")
    node.post(DESIRED, LOOK)
    view = NodeView.model_validate_json(alliance.admin.post(f"{NODES}/alpha/revoke").content)
    assert (view.status, view.revoked_at) == ("revoked", alliance.clock.now())
    assert node.post(DESIRED, LOOK).status_code == 403
    assert "alpha" not in alliance.hub.keys
    alliance.clock.advance(60)
    again = NodeView.model_validate_json(alliance.admin.post(f"{NODES}/alpha/revoke").content)
    assert again.revoked_at == view.revoked_at, "the first answer again"
    assert alliance.event_kinds(node_id="alpha").count("node.revoked") == 1
    reply = alliance.admin.post(f"{NODES}/alpha/code")
    assert (reply.status_code, reply.json()["code"]) == (409, "node_is_revoked")


def test_releasing_lets_the_next_agent_speak(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    with alliance.kernel.transaction() as session:
        session.execute(update(NodeRow).values(duplicate_at=alliance.clock.now(), boot_number=4, boot_id="x"))
    assert NodeView.model_validate_json(alliance.admin.get(f"{NODES}/alpha").content).duplicate_instance
    view = NodeView.model_validate_json(alliance.admin.post(f"{NODES}/alpha/release").content)
    assert (view.duplicate_instance, view.boot_number) == (False, None)
    assert "node.released" in alliance.event_kinds(node_id="alpha")
