"""New keys while the agent works, with a crash at every step; and other nodes' new keys, vouched for or not."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from hsl_model import durable
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase
from hsl_model.protocol.transport import ROTATE
from node_agent import rotation
from node_agent.enrol import Identity, load_identity
from node_agent.exchange.base import Exchange, ExchangeError
from node_agent.exchange.directory import DirectoryExchange
from node_agent.keys import SSH_KEY_BEFORE
from node_agent.settings import NodeSettings
from tests.node_agent.alliance import AGENT, HUB, PEER, Alliance, make_config
from tests.node_agent.helpers import Hospital
from tests.node_agent.test_daemon_rules import GOOD, THIRD, Scene

Facts = tuple[str, str, str]


def facts_of(identity: Identity) -> Facts:
    return identity.token, identity.keys.ssh_public_key, identity.keys.signing_public_key


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, num_rounds=2)


# --- files -----------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """The process ends here."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Before the `step`-th durable step (0: never). Answers how many there were."""
    counter = itertools.count(1)
    done = 0

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def step_or_end(*args: object) -> None:
            nonlocal done
            done = next(counter)
            if done == step:
                raise PowerCut
            call(*args)

        return step_or_end

    monkeypatch.setattr(durable, "publish", counted(durable.publish))
    monkeypatch.setattr(durable, "fsync", counted(durable.fsync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(rotation.shutil, "rmtree", counted(rotation.shutil.rmtree))
    return lambda: done


def rotate_alone(settings: NodeSettings) -> None:
    """All that this site does, with a coordinator that says yes."""
    rotation.prepare(settings, load_identity(settings), ssh=True, signing=True)
    rotation.accept(settings)


def test_a_crash_at_any_step_leaves_the_old_identity_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Hospital(tmp_path / "0", Alliance(tmp_path / "x", make_config())).join().settings
    with monkeypatch.context() as patched:
        num_steps = cut_at(0, patched)
        rotate_alone(whole)
        total = num_steps()
    assert total >= 15
    seen: set[str] = set()
    for step in range(1, total + 1):
        settings = Hospital(tmp_path / str(step), Alliance(tmp_path / f"x{step}", make_config())).join().settings
        old = facts_of(load_identity(settings))
        with monkeypatch.context() as patched:
            cut_at(step, patched)
            with pytest.raises(PowerCut):
                rotate_alone(settings)
        rotation.put_in_place(settings)  # the next start
        now = facts_of(load_identity(settings))
        if now == old:
            request = rotation.pending(settings)
            seen.add("nothing said" if request is None else "to be told")
            rotate_alone(settings)
            if request is not None:
                token = load_identity(settings).token
                assert hashlib.sha256(token.encode()).hexdigest() == request.token_sha256, "the one that was told"
        else:
            seen.add("in place")
            assert not set(now) & set(old), "whole"
        identity = load_identity(settings)
        assert not set(facts_of(identity)) & set(old)
        assert identity.keys.ssh_key_before is not None
        assert modes(settings.keys_folder) == {0o600}
        assert not rotation.next_folder(settings).exists()
    assert seen == {"nothing said", "to be told", "in place"}


def test_one_rotation_at_a_time(tmp_path: Path) -> None:
    settings = Hospital(tmp_path / "a", Alliance(tmp_path / "x", make_config())).join().settings
    identity = load_identity(settings)
    first = rotation.prepare(settings, identity, ssh=True, signing=True)
    assert rotation.prepare(settings, identity, ssh=False, signing=True) == first


@pytest.mark.parametrize("only", ["ssh", "signing"])
def test_only_what_was_asked_for_changes_and_the_token(tmp_path: Path, only: str) -> None:
    settings = Hospital(tmp_path / "a", Alliance(tmp_path / "x", make_config())).join().settings
    old = facts_of(load_identity(settings))
    rotation.prepare(settings, load_identity(settings), ssh=only == "ssh", signing=only == "signing")
    assert facts_of(load_identity(settings)) == old
    rotation.accept(settings)
    now = facts_of(load_identity(settings))
    changed = [a != b for a, b in zip(old, now, strict=True)]
    assert changed == [True, only == "ssh", only == "signing"]


# --- while the agent works -------------------------------------------------------------------------------------------


def rotate(scene: Scene) -> None:
    with scene.hospital.site() as site:
        reply = site.post("/rotate", json={}, params={"wait_s": 20})
        assert reply.status_code == 200, reply.text
        assert reply.json()["rotation"] is None


def in_use(scene: Scene, before: Facts) -> None:
    identity = load_identity(scene.hospital.settings)
    assert not set(facts_of(identity)) & set(before)
    assert identity.keys.ssh_key_before is None
    assert scene.alliance.agent_key == identity.keys.signing_public_key
    assert scene.alliance.token_hash == hashlib.sha256(identity.token.encode()).hexdigest()


@pytest.mark.parametrize("while_it", ["trains", "waits for the peers", "waits for the plan"])
def test_keys_are_rotated_in_the_middle_of_a_round(scene: Scene, while_it: str) -> None:
    """What it trains is signed with the new key; what was signed with the old one before still counts."""
    before = facts_of(load_identity(scene.hospital.settings))
    if while_it == "trains":
        scene.hold.touch()
    scene.alliance.peers_announce = while_it != "waits for the peers"
    scene.alliance.freezes = while_it != "waits for the plan"
    with scene.hospital.running():
        if while_it == "trains":
            scene.until_training()
        elif while_it == "waits for the peers":
            scene.alliance.wait(lambda: scene.alliance.round.number == 1 and AGENT in scene.alliance.round.updates)
        else:
            scene.alliance.wait(lambda: AGENT in scene.alliance.round.updates)
        rotate(scene)
        scene.hold.unlink(missing_ok=True)
        scene.alliance.change(peers_announce=True, freezes=True)
        scene.until_finished()
    in_use(scene, before)
    assert not scene.alliance.asked("/refusals")
    assert set(scene.alliance.history) == {0, 1, 2}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_request_or_reply_is_sent_again_and_changes_nothing(scene: Scene, when: str) -> None:
    lost = iter([True, True])

    def fault(moment: str, path: str) -> None:
        if (moment, path) == (when, ROTATE) and next(lost, False):
            raise httpx.ReadError("cut")

    before = facts_of(load_identity(scene.hospital.settings))
    scene.alliance.fault = fault
    with scene.hospital.running():
        rotate(scene)
        scene.until_finished()
    in_use(scene, before)
    own = [one for one in scene.alliance.rotations if one.rotation.node_id == AGENT]
    assert len(own) == 1


def test_an_agent_that_dies_after_the_coordinator_said_yes_goes_on(scene: Scene) -> None:
    before = facts_of(load_identity(scene.hospital.settings))

    def fault(moment: str, path: str) -> None:
        if (moment, path) == ("after", ROTATE):
            scene.hospital.mailbox.stop()
            raise httpx.ReadError("cut")

    scene.alliance.fault = fault
    with scene.hospital.running(), scene.hospital.site() as site:
        site.post("/rotate", json={})
        scene.hospital.wait(lambda: scene.hospital.mailbox.stopping)
    assert facts_of(load_identity(scene.hospital.settings)) == before
    scene.alliance.fault = lambda moment, path: None
    with scene.hospital.running():
        scene.until_finished()
        scene.hospital.wait(lambda: not (scene.hospital.settings.keys_folder / SSH_KEY_BEFORE).exists())
    in_use(scene, before)


class HubThatKnows(DirectoryExchange):
    """Lets in who logs in with the key that `allowed` names."""

    allowed = ""

    def list_own(self) -> tuple[str, ...]:
        self._check()
        return super().list_own()

    def put_manifest(self, raw: bytes, path: str) -> None:
        self._check()
        super().put_manifest(raw, path)

    key = ""

    def _check(self) -> None:
        if self.key != HubThatKnows.allowed:
            raise ExchangeError(kind=FailureKind.LIMIT, doing="Logging in")


def test_while_the_hub_has_not_heard_of_the_new_key_the_old_one_is_used(scene: Scene) -> None:
    def opened(hub: HubAddress, key: Path, node_id: str) -> Exchange:
        exchange = HubThatKnows(scene.alliance.hub, node_id)
        exchange.key = key.read_text()
        return exchange

    settings = scene.hospital.settings
    HubThatKnows.allowed = load_identity(settings).keys.ssh_key.read_text()
    with scene.hospital.running(exchange_factory=opened), scene.hospital.site() as site:
        site.post("/rotate", json={})
        scene.hospital.wait((settings.keys_folder / SSH_KEY_BEFORE).exists)
        scene.until_finished()  # with the old key
        assert (settings.keys_folder / SSH_KEY_BEFORE).exists()
        HubThatKnows.allowed = (settings.keys_folder / "ssh_ed25519").read_text()
        scene.hospital.wait(lambda: not (settings.keys_folder / SSH_KEY_BEFORE).exists())


# --- other nodes' keys -----------------------------------------------------------------------------------------------


def at_round_1(folder: Path) -> Scene:
    """Three members; the peers' updates are announced, the plan is not frozen."""
    scene = Scene(folder, PEER, THIRD)
    scene.alliance.freezes = False
    return scene


def freeze_round_0(scene: Scene) -> None:
    alliance = scene.alliance
    alliance.wait(lambda: AGENT in alliance.round.updates)
    with alliance.changed:
        alliance._freeze(1)
        alliance._bump()
    alliance.wait(lambda: alliance.round.number == 1 and AGENT in alliance.round.updates)


def freeze(scene: Scene) -> None:
    with scene.alliance.changed:
        scene.alliance._freeze(1)
        scene.alliance._bump()


def test_a_rotation_that_the_old_key_signed_applies_at_once_and_is_shown(tmp_path: Path) -> None:
    """The update was signed before it, and the plan names that very manifest."""
    scene = at_round_1(tmp_path)
    with scene.hospital.running(), scene.hospital.site() as site:
        freeze_round_0(scene)
        scene.alliance.rotate_peer(THIRD)
        freeze(scene)
        scene.until_finished()
        status = site.get("/status").json()
    assert status["held_keys"] == []
    assert {one["node_id"]: one["how"] for one in status["peer_keys"]}[THIRD] == "rotated"
    assert not scene.alliance.asked("/refusals")


def test_a_key_that_nobody_vouched_for_waits_for_the_sites_admin(tmp_path: Path) -> None:
    scene = at_round_1(tmp_path)
    alliance = scene.alliance
    alliance.peers_announce = False
    with scene.hospital.running(), scene.hospital.site() as site:
        freeze_round_0(scene)
        alliance.rotate_peer(THIRD, signed=False)
        with alliance.changed:
            for peer, value in ((PEER, 1), (THIRD, 2)):
                alliance.round.updates[peer] = alliance.put(peer, {name: value * GOOD[name] for name in GOOD}, 1)
            alliance._freeze(1)
            alliance._bump()
        scene.hospital.wait(lambda: f"hsl node trust {THIRD}" in (scene.hospital.mailbox.waiting or ""))
        theirs = alliance.round.updates[THIRD].manifest.update_sha256
        store = scene.hospital.settings.workdir / "store"
        assert not list(store.glob(f"{theirs}*")), "nothing of it was fetched"
        assert not alliance.asked("/refusals"), "it is no news about the update"
        assert not alliance.asked("/rounds/1/fusion"), "nobody fuses a subset on his own"
        (held,) = site.get("/status").json()["held_keys"]
        assert (held["name"], held["known"] != held["offered"]) == (THIRD, True)
        wrong = site.post("/trust", json={"name": THIRD, "fingerprint": held["known"]})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "nothing_held")
        assert site.get("/status").json()["held_keys"] == [held]
        done = site.post("/trust", json={"name": THIRD, "fingerprint": held["offered"]})
        assert done.json()["held_keys"] == []
        scene.until_finished()
        known = {one["node_id"]: one["how"] for one in site.get("/status").json()["peer_keys"]}
    assert known == {AGENT: "first", PEER: "first", THIRD: "admin"}
    assert alliance.history[1]


def test_a_held_key_is_held_after_a_restart(tmp_path: Path) -> None:
    scene = at_round_1(tmp_path)
    with scene.hospital.running():
        freeze_round_0(scene)
    scene.alliance.rotate_peer(THIRD, signed=False)
    freeze(scene)
    with scene.hospital.running(), scene.hospital.site() as site:
        scene.hospital.wait(lambda: THIRD in (scene.hospital.mailbox.waiting or ""))
        (held,) = site.get("/status").json()["held_keys"]
        assert held["name"] == THIRD


def test_another_host_key_of_the_hub_waits_for_the_sites_admin(scene: Scene) -> None:
    new = f"ssh-ed25519 {'B' * 67}8="

    def opened(hub: HubAddress, key: Path, node_id: str) -> Exchange:
        if hub.host_key != scene.alliance.host_key:
            raise ExchangeError(kind=FailureKind.HOST_KEY, doing="Connecting")
        return DirectoryExchange(scene.alliance.hub, node_id)

    scene.alliance.host_key = new
    with scene.hospital.running(exchange_factory=opened), scene.hospital.site() as site:
        scene.until_phase(NodePhase.FAILED)
        scene.hospital.wait(lambda: site.get("/status").json()["held_keys"])
        (held,) = site.get("/status").json()["held_keys"]
        assert held["name"] == "hub"
        assert load_identity(scene.hospital.settings).node.hub == HUB, "not believed"
        site.post("/trust", json={"name": "hub", "fingerprint": held["offered"]})
        scene.until_finished()
    assert load_identity(scene.hospital.settings).node.hub.host_key == new


def test_a_stranger_in_the_hubs_place_is_not_offered_for_trust(scene: Scene) -> None:
    """The coordinator knows the hub by the pinned key: whoever shows another is not the hub."""

    def opened(hub: HubAddress, key: Path, node_id: str) -> Exchange:
        raise ExchangeError(kind=FailureKind.HOST_KEY, doing="Connecting")

    with scene.hospital.running(exchange_factory=opened), scene.hospital.site() as site:
        scene.until_phase(NodePhase.FAILED)
        scene.alliance.wait(lambda: scene.alliance.asked("/node/hub"))
        assert site.get("/status").json()["held_keys"] == []
        assert site.get("/status").json()["failure_code"]
