"""Who may speak: tokens, protocol versions, and one live agent for each identity."""

import httpx
import pytest

from coordinator.tables import NodeRow
from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from hsl_model.protocol.transport import API, BOOT_ID_HEADER, BOOT_NUMBER_HEADER
from tests.coordinator.helpers import ADMIN_TOKEN, Alliance, NodeSpeaker

PROBE = "/probe/node"


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"] if reply.status_code >= 400 else ""


def row_of(probed: Alliance, node_id: str) -> NodeRow:
    with probed.kernel.snapshot() as session:
        return session.get_one(NodeRow, node_id)


@pytest.fixture
def node(probed: Alliance) -> NodeSpeaker:
    return probed.enrol("alpha")


def test_the_admin_is_known_by_token(probed: Alliance, node: NodeSpeaker) -> None:
    assert probed.admin.post("/probe/admin").json() == "admin"
    for wrong in ("", "Bearer", "Bearer x", f"Basic {ADMIN_TOKEN}", f"Bearer {ADMIN_TOKEN}x", f"Bearer {node.token}"):
        reply = probed.http.post("/probe/admin", headers={"Authorization": wrong})
        assert code(reply) == (401, "admin_token_invalid"), wrong
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_a_node_is_known_by_token(probed: Alliance, node: NodeSpeaker) -> None:
    probed.enrol("beta")
    assert node.post(PROBE).json() == "alpha"
    random = node.token.removeprefix("hsln_alpha_")
    others = (f"hsln_beta_{random}", f"hsln_nobody_{random}", f"{node.token}x", node.token[:-1])
    for wrong in (ADMIN_TOKEN, "hsln_", "hsln_alpha_", "\xff", *others):
        reply = node.post(PROBE, Authorization=f"Bearer {wrong}".encode("latin-1"))  # type: ignore[arg-type]
        assert code(reply) == (401, "node_token_invalid"), wrong


def test_tokens_are_compared_whole_whether_the_node_exists_or_not(
    probed: Alliance, node: NodeSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of one length, by `compare_digest`: the time of a refusal tells neither names nor signs of a token."""
    compared: list[tuple[int, int]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("coordinator.kit.auth.hmac.compare_digest", compare)
    counts = []
    for token in ("hsln_alpha_wrong", "hsln_nobody_wrong", "x", node.token[:-1] + "!"):
        compared.clear()
        node.token = token
        assert node.post(PROBE).status_code == 401
        assert set(compared) == {(64, 64)}
        counts.append(len(compared))
    assert len(set(counts)) == 1


def test_a_created_node_has_no_token_that_works(probed: Alliance, node: NodeSpeaker) -> None:
    probed.add("gamma")
    assert code(node.post(PROBE, Authorization="Bearer hsln_gamma_")) == (401, "node_token_invalid")


def test_a_revoked_node_is_told_so_and_only_with_its_own_token(probed: Alliance, node: NodeSpeaker) -> None:
    probed.admin.post(f"{API}/nodes/alpha/revoke")
    assert code(node.post(PROBE)) == (403, "node_revoked")
    assert code(node.post(PROBE, Authorization="Bearer hsln_alpha_x")) == (401, "node_token_invalid")


@pytest.mark.parametrize("version", [PROTOCOL_VERSION, PROTOCOL_VERSION - 1])
def test_this_protocol_version_and_the_one_before_are_served(node: NodeSpeaker, version: int) -> None:
    assert node.post(PROBE, **{PROTOCOL_HEADER: str(version)}).status_code == 200


@pytest.mark.parametrize("version", [str(PROTOCOL_VERSION + 1), str(PROTOCOL_VERSION - 2), "", "one", "1.0"])
def test_other_protocol_versions_are_told_which_are(probed: Alliance, node: NodeSpeaker, version: str) -> None:
    for reply in (
        node.post(PROBE, **{PROTOCOL_HEADER: version}),
        probed.http.post(f"{API}/enrol", json={}, headers={PROTOCOL_HEADER: version}),
    ):
        assert code(reply) == (426, "protocol_version")
        assert f"serves {PROTOCOL_VERSION} and {PROTOCOL_VERSION - 1}" in reply.json()["detail"]
        assert reply.headers["Upgrade"]


def test_a_node_says_which_boot_it_is(probed: Alliance, node: NodeSpeaker) -> None:
    headers = {key: value for key, value in node.headers.items() if key not in (BOOT_ID_HEADER, BOOT_NUMBER_HEADER)}
    reply = probed.http.post(PROBE, headers=headers)
    assert code(reply) == (422, "request_invalid")
    assert BOOT_NUMBER_HEADER.lower() in reply.json()["detail"].lower()


def test_a_restart_is_taken_and_recorded(probed: Alliance, node: NodeSpeaker) -> None:
    node.post(PROBE)
    node.restart()
    assert node.post(PROBE).status_code == 200
    row = row_of(probed, "alpha")
    assert (row.boot_number, row.boot_id, row.duplicate_at) == (2, "boot-2", None)
    assert probed.event_kinds(node_id="alpha").count("node.agent_started") == 2


def test_what_the_dying_process_had_on_the_way_is_refused_and_no_alarm(probed: Alliance, node: NodeSpeaker) -> None:
    node.post(PROBE)
    old = dict(node.headers)
    node.restart()
    node.post(PROBE)
    probed.clock.advance(9)
    reply = probed.http.post(PROBE, headers=old)
    assert code(reply) == (409, "duplicate_instance")
    assert "alpha" in reply.json()["detail"]
    assert reply.json()["data"]["node_id"] == "alpha"
    node.restart()
    assert node.post(PROBE).status_code == 200


@pytest.mark.parametrize("other", [("1", "copy"), ("2", "copy"), ("0", "copy")])
def test_two_live_agents_are_found_out_and_stay_apart_until_released(
    probed: Alliance, node: NodeSpeaker, other: tuple[str, str]
) -> None:
    node.post(PROBE)
    node.restart()
    node.post(PROBE)
    probed.clock.advance(11)
    copy = {BOOT_NUMBER_HEADER: other[0], BOOT_ID_HEADER: other[1]}
    assert code(node.post(PROBE, **copy)) == (409, "duplicate_instance")
    assert row_of(probed, "alpha").duplicate_at is not None, "known although the request failed"
    assert probed.admin.get(f"{API}/nodes/alpha").json()["duplicate_instance"]
    assert node.post(PROBE).status_code == 200, "the boot we know goes on"
    newer = {BOOT_NUMBER_HEADER: "3", BOOT_ID_HEADER: "newer"}
    assert code(node.post(PROBE, **newer)) == (409, "duplicate_instance"), "no new boot while two are alive"
    probed.clock.advance(3600)
    assert code(node.post(PROBE, **newer)) == (409, "duplicate_instance")
    assert probed.event_kinds(node_id="alpha").count("node.duplicate_refused") == 1

    probed.admin.post(f"{API}/nodes/alpha/release")
    assert node.post(PROBE, **copy).status_code == 200, "the first to speak after the release"
    assert code(node.post(PROBE)) == ((409, "duplicate_instance") if other[0] == "2" else (200, ""))


def test_the_first_request_with_a_token_spends_the_code(probed: Alliance, node: NodeSpeaker) -> None:
    assert row_of(probed, "alpha").code_hash is not None
    node.post(PROBE)
    row = row_of(probed, "alpha")
    assert row.token_used_at == probed.clock.now()
    assert (row.code_hash, row.code_taken_by) == (None, None)


def test_last_contact_is_kept_but_not_with_every_message(probed: Alliance, node: NodeSpeaker) -> None:
    node.post(PROBE)
    first = row_of(probed, "alpha").last_seen_at
    probed.clock.advance(4)
    node.post(PROBE)
    assert row_of(probed, "alpha").last_seen_at == first
    probed.clock.advance(1)
    node.post(PROBE)
    assert row_of(probed, "alpha").last_seen_at == probed.clock.now()


def test_a_message_alone_wakes_no_long_poll(probed: Alliance, node: NodeSpeaker) -> None:
    node.post(PROBE)
    generation = probed.kernel.notifier.generation
    probed.clock.advance(60)
    node.post(PROBE)
    assert probed.kernel.notifier.generation == generation
