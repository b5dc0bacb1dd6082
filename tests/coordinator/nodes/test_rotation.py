"""New keys for a node that works: applied once, old ones good until the new are used, never a way in for a stranger."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.nodes.rotation import PAUSE_S
from coordinator.schedule import HUB_PAUSE_S
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import DesiredRequest, RosterEntry, RotateRequest
from hsl_model.protocol.rotation import MAX_ROTATIONS, KeyRotation, access_digest, ancestry, sign_rotation
from hsl_model.protocol.transport import API, DESIRED, ENROL, HUB, ROTATE, new_token
from tests.coordinator.helpers import Alliance, Keys, NodeSpeaker
from tests.coordinator.rounds.sites import Federation, enrolled

LOOK = DesiredRequest(wait_s=0)


@dataclass
class New:
    """What a site makes for a rotation, and the request that its old key signs."""

    node_id: str
    old: Ed25519PrivateKey
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    ssh_line: str = ""

    def __post_init__(self) -> None:
        self.token = new_token(self.node_id)
        ssh = Ed25519PrivateKey.generate().public_key()
        self.ssh_line = self.ssh_line or ssh.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def request(self, **changes: Any) -> RotateRequest:
        token_sha256 = hashlib.sha256(self.token.encode()).hexdigest()
        said = KeyRotation(
            node_id=self.node_id,
            old=public_key_text(self.old),
            new=public_key_text(self.signing),
            access_sha256=access_digest(self.ssh_line, token_sha256),
        ).model_copy(update=changes)
        return RotateRequest(
            signed=sign_rotation(said, self.old, self.signing),
            ssh_public_key=self.ssh_line,
            token_sha256=token_sha256,
        )


def status(reply: httpx.Response) -> tuple[int, str | None]:
    return reply.status_code, reply.json()["code"] if reply.content else None


def speaks(node: NodeSpeaker, token: str) -> bool:
    return NodeSpeaker(node.http, node.node_id, token, node.signing_key).post(DESIRED, LOOK).status_code == 200


def rotated(alliance: Alliance, node: NodeSpeaker) -> New:
    """Applied and in use."""
    new = New(node.node_id, node.signing_key)
    assert status(node.post(ROTATE, new.request())) == (204, None)
    node.token, node.signing_key = new.token, new.signing
    assert node.post(DESIRED, LOOK).status_code == 200
    return new


def test_old_keys_work_until_the_new_ones_are_used(alliance: Alliance) -> None:
    node = alliance.enrol("alpha")
    new, old_token = New("alpha", node.signing_key), node.token
    for _ in range(2):  # a lost reply: the same again changes nothing
        assert status(node.post(ROTATE, new.request())) == (204, None)
    assert alliance.hub.keys["alpha"] == new.ssh_line
    assert alliance.hub.calls.count(("set_key", "alpha")) == 3, "also to be sure of a hub that was asked before"
    view = alliance.admin.get(f"{API}/nodes/alpha").json()
    assert view["signing_public_key"] == public_key_text(new.signing)
    assert speaks(node, old_token)
    assert speaks(node, new.token)
    assert not speaks(node, old_token)
    kinds = alliance.event_kinds(node_id="alpha")
    assert [kinds.count(kind) for kind in ("node.keys_rotated", "hub.key_set", "node.keys_confirmed")] == [1, 2, 1]
    node.token = new.token
    assert status(node.post(ROTATE, new.request())) == (204, None), "once more, by a site that had not heard"


def test_another_hospital_cannot_rotate_a_nodes_keys(sqlite_alliance: Alliance) -> None:
    alliance = sqlite_alliance
    node, other = alliance.enrol("alpha"), alliance.enrol("beta")
    before = dict(alliance.hub.keys)
    stolen = New("alpha", Ed25519PrivateKey.generate())  # the token alone is not enough
    theirs = New("beta", other.signing_key)
    good = New("alpha", node.signing_key)
    mixed = good.request().model_copy(update={"ssh_public_key": theirs.ssh_line})
    unsigned = good.request()
    unsigned = unsigned.model_copy(
        update={"signed": unsigned.signed.model_copy(update={"by_new": unsigned.signed.by_old})}
    )
    for request in (stolen.request(), theirs.request(), mixed, unsigned):
        assert status(node.post(ROTATE, request)) == (403, "rotation_refused")
    assert status(alliance.stranger.post(ROTATE, good.request()))[0] in (401, 422)
    assert alliance.hub.keys == before
    assert "node.keys_rotated" not in alliance.event_kinds()


def test_a_hub_that_is_down_gets_the_new_key_later(alliance: Alliance) -> None:
    node = alliance.enrol("alpha")
    new, before = New("alpha", node.signing_key), alliance.hub.keys["alpha"]
    alliance.hub.is_down = True
    assert status(node.post(ROTATE, new.request())) == (204, None)
    alliance.beat()
    assert alliance.hub.keys["alpha"] == before
    alliance.hub.is_down = False
    alliance.beat(HUB_PAUSE_S)
    assert alliance.hub.keys["alpha"] == new.ssh_line
    assert alliance.event_kinds(node_id="alpha").count("hub.key_set") == 2


def test_only_the_signing_key_or_only_the_way_to_the_hub(sqlite_alliance: Alliance) -> None:
    alliance = sqlite_alliance
    node = alliance.enrol("alpha")
    first = rotated(alliance, node)
    alliance.clock.advance(PAUSE_S)
    alliance.hub.calls.clear()
    signing_alone = New("alpha", first.signing, ssh_line=first.ssh_line)
    assert status(node.post(ROTATE, signing_alone.request())) == (204, None)
    assert alliance.hub.keys["alpha"] == first.ssh_line
    node.token, node.signing_key = signing_alone.token, signing_alone.signing
    node.post(DESIRED, LOOK)
    alliance.clock.advance(PAUSE_S)
    ssh_alone = New("alpha", node.signing_key, signing=node.signing_key)
    assert status(node.post(ROTATE, ssh_alone.request())) == (204, None)
    assert alliance.hub.keys["alpha"] == ssh_alone.ssh_line


def test_rotations_in_a_row_would_restart_the_hub_for_everybody(sqlite_alliance: Alliance) -> None:
    node = sqlite_alliance.enrol("alpha")
    new = rotated(sqlite_alliance, node)
    again = New("alpha", new.signing)
    assert status(node.post(ROTATE, again.request())) == (429, "rotation_too_soon")
    sqlite_alliance.clock.advance(PAUSE_S)
    assert status(node.post(ROTATE, again.request())) == (204, None)


def test_a_site_that_lost_its_new_keys_before_using_them_makes_others(sqlite_alliance: Alliance) -> None:
    node = sqlite_alliance.enrol("alpha")
    lost, other = New("alpha", node.signing_key), New("alpha", node.signing_key)
    assert status(node.post(ROTATE, lost.request())) == (204, None)
    sqlite_alliance.clock.advance(PAUSE_S)
    assert status(node.post(ROTATE, other.request())) == (204, None)
    assert not speaks(node, lost.token)
    assert speaks(node, other.token)
    assert sqlite_alliance.hub.keys["alpha"] == other.ssh_line


def test_a_revoked_node_rotates_nothing(alliance: Alliance) -> None:
    node = alliance.enrol("alpha")
    new = New("alpha", node.signing_key)
    node.post(ROTATE, new.request())
    alliance.admin.post(f"{API}/nodes/alpha/revoke")
    for token in (node.token, new.token):
        node.token = token
        assert node.post(ROTATE, new.request()).status_code == 403
    assert "alpha" not in alliance.hub.keys


def test_a_new_code_ends_a_rotation_that_was_under_way(sqlite_alliance: Alliance) -> None:
    alliance = sqlite_alliance
    node = alliance.enrol("alpha")
    new = New("alpha", node.signing_key)
    node.post(ROTATE, new.request())
    code = alliance.admin.post(f"{API}/nodes/alpha/code").json()["code"]
    assert alliance.stranger.post(ENROL, Keys().request(code)).status_code == 200
    assert not speaks(node, new.token)
    assert not speaks(node, node.token)


def test_the_hubs_address_is_told_to_nodes_only(sqlite_alliance: Alliance) -> None:
    node = sqlite_alliance.enrol("alpha")
    told = node.post(HUB)
    assert (told.status_code, told.json()["host_key"]) == (200, sqlite_alliance.hub.address("alpha").host_key)
    assert sqlite_alliance.stranger.post(HUB).status_code in (401, 422)


# --- in a round ------------------------------------------------------------------------------------------------------


def entry_of(federation: Federation, node_id: str) -> RosterEntry:
    return next(one for one in federation["node-b"].desired().roster if one.node_id == node_id)


def test_an_update_signed_before_the_rotation_is_good_in_its_round_and_in_no_later_one(alliance: Alliance) -> None:
    federation = enrolled(alliance).begin().to_round(1)
    site = federation["node-a"]
    old = site.speaker.signing_key
    signed = site.manifest(site.assignment())  # CHECKPOINTING, and then the rotation comes
    new = rotated(alliance, site.speaker)
    entry = entry_of(federation, "node-a")
    assert entry.signing_public_key == public_key_text(new.signing)
    assert entry.earlier == (public_key_text(old),)
    assert ancestry("node-a", entry.signing_public_key, entry.rotations)[1] == public_key_text(old)
    site.ok(site.announce_signed(site.assignment(), signed))
    alliance.clock.advance(1)
    federation.play_round()
    assert federation.round(1).status == "completed"
    assert federation.statuses(1) == {"node-a": "fused", "node-b": "fused", "node-c": "fused"}

    assert entry_of(federation, "node-a").earlier == ()
    site.speaker.signing_key = old
    reply = site.announce(site.assignment())
    assert (reply.status_code, reply.json()["code"]) == (422, "manifest_invalid")
    site.speaker.signing_key = new.signing
    federation.play_round()
    assert federation.round(2).status == "completed"


def test_until_the_new_token_is_used_both_keys_sign_in_any_round(sqlite_alliance: Alliance) -> None:
    """The reply is lost and the site has not heard: it must not fall out of the round that opens meanwhile."""
    federation = enrolled(sqlite_alliance).begin().to_round(1)
    site = federation["node-a"]
    site.ok(site.speaker.post(ROTATE, New("node-a", site.speaker.signing_key).request()))
    for number in (1, 2):
        sqlite_alliance.clock.advance(1)
        federation.play_round()
        assert federation.round(number).status == "completed"


@pytest.mark.parametrize("num_rotations", [1, MAX_ROTATIONS, MAX_ROTATIONS + 2])
def test_the_roster_tells_the_way_of_a_bounded_number_of_rotations(
    sqlite_alliance: Alliance, num_rotations: int
) -> None:
    federation = enrolled(sqlite_alliance).begin()
    keys = [public_key_text(federation["node-a"].speaker.signing_key)]
    for _ in range(num_rotations):
        sqlite_alliance.clock.advance(PAUSE_S)
        keys.append(public_key_text(rotated(sqlite_alliance, federation["node-a"].speaker).signing))
    entry = entry_of(federation, "node-a")
    way = ancestry("node-a", entry.signing_public_key, entry.rotations)
    assert way == tuple(reversed(keys))[: MAX_ROTATIONS + 1]
