"""Enrolment: a one-time code admits one pair of keys, and a lost reply costs nothing."""

import base64
import threading

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.tables import NodeRow
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import DesiredRequest, EnrolReply, EnrolRequest
from hsl_model.protocol.transport import API, DESIRED, ENROL, HUB_PLACE
from tests.coordinator.helpers import Alliance, Keys, NodeSpeaker

LOOK = DesiredRequest(wait_s=0)


def enrolled(reply: httpx.Response) -> EnrolReply:
    assert reply.status_code == 200, reply.text
    return EnrolReply.model_validate_json(reply.content)


def refused(reply: httpx.Response, status: int = 403, code: str = "enrolment_code_invalid") -> str:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    return str(reply.json()["detail"])


def speaker(alliance: Alliance, reply: EnrolReply, keys: Keys) -> NodeSpeaker:
    return NodeSpeaker(alliance.http, reply.node_id, reply.token, keys.signing)


def row_of(alliance: Alliance, node_id: str) -> NodeRow:
    with alliance.kernel.snapshot() as session:
        return session.get_one(NodeRow, node_id)


def test_a_code_and_keys_become_a_token_and_a_place_on_the_hub(alliance: Alliance) -> None:
    keys, code = Keys(), alliance.add("alpha")
    reply = enrolled(alliance.stranger.post(ENROL, keys.request(code)))
    assert (reply.node_id, reply.alliance, reply.hub.username) == ("alpha", "HeteroSync alliance", "alpha")
    assert reply.token.startswith("hsln_alpha_")
    assert alliance.hub.keys["alpha"] == keys.request(code).ssh_public_key
    assert alliance.hub.calls == [("ensure_node", "alpha"), ("set_key", "alpha")]
    view = alliance.admin.get(f"{API}/nodes/alpha").json()
    assert (view["status"], view["signing_public_key"]) == ("enrolled", public_key_text(keys.signing))
    assert speaker(alliance, reply, keys).post(DESIRED, LOOK).status_code == 200
    provisioned = ["hub.folder_made", "hub.user_made", "hub.key_set"]
    expected = ["node.created", *provisioned, "node.enrolled", "node.agent_started"]
    assert alliance.event_kinds(node_id="alpha") == expected


def test_neither_token_nor_code_is_stored(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    reply = enrolled(alliance.stranger.post(ENROL, Keys().request(code)))
    row = row_of(alliance, "alpha")
    stored = " ".join(str(getattr(row, column.key)) for column in NodeRow.__table__.columns)
    for secret in (reply.token, reply.token.removeprefix("hsln_alpha_"), code, code.replace("-", "")):
        assert secret not in stored
    assert row.token_hash is not None
    assert len(row.token_hash) == 64


@pytest.mark.parametrize("spell", [str.lower, lambda code: code.replace("-", ""), lambda code: f" {code}\n"])
def test_a_code_may_be_typed_as_people_type(sqlite_alliance: Alliance, spell: object) -> None:
    code = sqlite_alliance.add("alpha")
    enrolled(sqlite_alliance.stranger.post(ENROL, Keys().request(spell(code))))  # type: ignore[operator]


def test_a_lost_reply_costs_nothing_until_the_token_is_used(alliance: Alliance) -> None:
    keys, code = Keys(), alliance.add("alpha")
    first = enrolled(alliance.stranger.post(ENROL, keys.request(code)))
    second = enrolled(alliance.stranger.post(ENROL, keys.request(code)))
    assert first.token != second.token
    assert speaker(alliance, first, keys).post(DESIRED, LOOK).status_code == 401, "only the newest token is valid"
    assert speaker(alliance, second, keys).post(DESIRED, LOOK).status_code == 200
    refused(alliance.stranger.post(ENROL, keys.request(code)))


def test_a_used_an_expired_and_a_wrong_code_get_the_same_answer(alliance: Alliance) -> None:
    keys, used, expired = Keys(), alliance.add("alpha"), alliance.add("beta")
    enrolled(alliance.stranger.post(ENROL, keys.request(used)))
    alliance.clock.advance(alliance.kernel.settings.code_lifetime_s - 1)
    fresh = alliance.add("gamma")
    alliance.clock.advance(1)
    answers = {
        refused(alliance.stranger.post(ENROL, Keys().request(used))),  # other keys than those it admitted
        refused(alliance.stranger.post(ENROL, Keys().request(expired))),
        refused(alliance.stranger.post(ENROL, Keys().request("WRONG-WRONG-WRONG-WRONG"))),
    }
    assert len(answers) == 1
    assert not {"alpha", "beta", "gamma"} & set(answers.pop().split())
    enrolled(alliance.stranger.post(ENROL, Keys().request(fresh)))


def test_a_hub_that_is_down_uses_nothing_up(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    alliance.hub.is_down = True
    refused(alliance.stranger.post(ENROL, Keys().request(code)), 503, "hub_unreachable")
    assert row_of(alliance, "alpha").status == "created"
    alliance.hub.is_down = False
    enrolled(alliance.stranger.post(ENROL, Keys().request(code)))


def _ssh(key: object) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ssh_public_key", _ssh(rsa.generate_private_key(65537, 2048))),
        ("ssh_public_key", "ssh-ed25519 AAAAnot-a-key-at-all"),
        ("ssh_public_key", "-----BEGIN PRIVATE KEY-----"),
        ("ssh_public_key", _ssh(Ed25519PrivateKey.generate()) + '\ncommand="sh" ' + _ssh(Ed25519PrivateKey.generate())),
        ("signing_public_key", base64.b64encode(b"x" * 33).decode()),
        ("signing_public_key", "!" * 44),
    ],
)
def test_what_is_no_ed25519_key_is_refused(sqlite_alliance: Alliance, field: str, value: str) -> None:
    code = sqlite_alliance.add("alpha")
    request = Keys().request(code).model_copy(update={field: value})
    assert field in refused(sqlite_alliance.stranger.post(ENROL, request), 422, "public_key_invalid")
    assert not sqlite_alliance.hub.keys


def test_a_comment_after_the_key_does_not_reach_the_hub(sqlite_alliance: Alliance) -> None:
    request = Keys().request(sqlite_alliance.add("alpha"))
    named = request.model_copy(update={"ssh_public_key": f"{request.ssh_public_key} root@hospital\n"})
    enrolled(sqlite_alliance.stranger.post(ENROL, named))
    assert sqlite_alliance.hub.keys["alpha"] == request.ssh_public_key


def test_a_new_code_admits_new_keys_and_begins_a_new_life(alliance: Alliance) -> None:
    old = alliance.enrol("alpha")
    old.boot_number = 7
    old.post(DESIRED, LOOK)
    code = alliance.admin.post(f"{API}/nodes/alpha/code").json()["code"]
    assert old.post(DESIRED, LOOK).status_code == 200, "works until the new agent enrols"
    keys = Keys()
    reply = enrolled(alliance.stranger.post(ENROL, keys.request(code)))
    assert old.post(DESIRED, LOOK).status_code == 401
    new = speaker(alliance, reply, keys)
    assert new.post(DESIRED, LOOK).status_code == 200, "a new disk counts its boots from 1 again"
    assert alliance.hub.keys["alpha"] == keys.request(code).ssh_public_key


def test_a_new_code_replaces_the_old_one(alliance: Alliance) -> None:
    old = alliance.add("alpha")
    new = alliance.admin.post(f"{API}/nodes/alpha/code").json()["code"]
    refused(alliance.stranger.post(ENROL, Keys().request(old)))
    enrolled(alliance.stranger.post(ENROL, Keys().request(new)))


def test_a_new_code_for_an_agent_that_never_spoke_admits_other_keys(alliance: Alliance) -> None:
    alliance.enrol("alpha")
    code = alliance.admin.post(f"{API}/nodes/alpha/code").json()["code"]
    enrolled(alliance.stranger.post(ENROL, Keys().request(code)))


def test_a_revoked_node_cannot_enrol(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    alliance.admin.post(f"{API}/nodes/alpha/revoke")
    refused(alliance.stranger.post(ENROL, Keys().request(code)))
    assert "alpha" not in alliance.hub.keys


class RevokingHub:
    """Revokes the node in the middle of its enrolment, after the hub took its key."""

    def __init__(self, alliance: Alliance) -> None:
        self._alliance, self._hub = alliance, alliance.hub

    def __getattr__(self, name: str) -> object:
        return getattr(self._hub, name)

    def set_key(self, node_id: str, ssh_public_key: str) -> None:
        assert self._alliance.admin.post(f"{API}/nodes/{node_id}/revoke").status_code == 200
        self._hub.set_key(node_id, ssh_public_key)


def test_a_revocation_in_the_middle_of_an_enrolment_wins_on_the_hub_too(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    object.__setattr__(alliance.kernel, "hub", RevokingHub(alliance))
    refused(alliance.stranger.post(ENROL, Keys().request(code)))
    assert "alpha" in alliance.hub.keys, "the race left it there"
    alliance.beat()
    assert "alpha" not in alliance.hub.keys


def test_of_two_agents_with_one_code_one_is_admitted_and_the_hub_knows_its_key(alliance: Alliance) -> None:
    code = alliance.add("alpha")
    pairs = [Keys(), Keys()]
    replies: dict[int, httpx.Response] = {}
    start = threading.Barrier(2)

    def enrol(number: int) -> None:
        start.wait()
        replies[number] = alliance.stranger.post(ENROL, pairs[number].request(code))

    threads = [threading.Thread(target=enrol, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies.values()) == [200, 403]
    winner = next(number for number, reply in replies.items() if reply.status_code == 200)
    alliance.beat()
    assert alliance.hub.keys["alpha"] == pairs[winner].request(code).ssh_public_key


def test_a_request_that_is_no_enrolment(sqlite_alliance: Alliance) -> None:
    good = Keys().request("ABCD-EFGH").model_dump()
    for wrong in ({}, {**good, "code": "x"}, {**good, "extra": 1}, {**good, "signing_public_key": 7}):
        refused(sqlite_alliance.stranger.post(ENROL, wrong), 422, "request_invalid")
    assert EnrolRequest.model_validate(good)


def test_a_stranger_learns_where_the_hub_listens_and_nothing_else(alliance: Alliance) -> None:
    alliance.add("alpha")
    told = alliance.http.get(HUB_PLACE, headers=alliance.stranger.headers)
    assert told.json() == {"host": "127.0.0.1", "port": 2022}
    alliance.hub.is_down = True
    refusal = alliance.http.get(HUB_PLACE, headers=alliance.stranger.headers)
    assert refused(refusal, 503, "hub_unknown")
    assert "hub.test" not in refusal.text  # the hub's own API is nobody's business
