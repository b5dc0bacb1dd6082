"""The rules of a round, seen from one agent: pause, stop, late, plan versions, refusals, files that vanish."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_model.durable import RESERVE_BYTES
from hsl_model.protocol.messages import PublishRequest
from hsl_model.protocol.paths import manifest_path, tensor_path
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase, RunStatus
from node_agent.exchange.base import ExchangeError, TransferWatch
from node_agent.exchange.directory import DirectoryExchange
from node_agent.journal import Journal
from node_agent.model_card import read_model_card
from tests.node_agent.alliance import AGENT, PEER, RUN, Alliance, make_config
from tests.node_agent.helpers import Hospital
from tests.small_disk import MB, fill, small_disk

THIRD = "hospital-c"
GOOD = {"weight": np.ones(4, np.float32), "counter": np.array(1, np.int64)}


class Scene:
    """An alliance, a hospital, and a file that holds its training up while it exists."""

    def __init__(self, folder: Path, *peers: str, **config: Any) -> None:
        self.hold = folder / "hold"
        config = {"num_rounds": 1, "nodes": (AGENT, *(peers or (PEER,))), **config}
        self.alliance = Alliance(folder, make_config(**config), peers or (PEER,))
        self.hospital = Hospital(folder / "a", self.alliance, "--hold", self.hold, "--die", folder / "die").join()

    def until_training(self) -> psutil.Process:
        """The training child, at work in round 1."""
        self.until_phase(NodePhase.TRAINING)
        self.hospital.wait(lambda: self.hospital.mailbox.progress is not None)
        with self.hospital.site() as site:
            return psutil.Process(site.get("/status").json()["trainer_pid"])

    def until_phase(self, phase: NodePhase) -> None:
        self.hospital.wait(lambda: self.hospital.row().phase is phase)

    def until_finished(self) -> None:
        self.alliance.wait(lambda: self.alliance.finished)
        self.hospital.wait(lambda: self.hospital.row().facts is None)

    @property
    def round_folder(self) -> Path:
        return self.hospital.settings.round_folder(RUN, 1)

    def on_hub(self, node_id: str, sha256: str) -> Path:
        return self.alliance.hub / tensor_path(node_id, sha256).lstrip("/")

    def explanation(self) -> str:
        with self.hospital.site() as site:
            return str(site.get("/status").json()["explanation"])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# --- pause and stop (rule 12) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["coordinator", "site"])
def test_a_pause_stops_training_with_a_snapshot_and_it_goes_on_later(scene: Scene, by: str) -> None:
    scene.hold.touch()
    with scene.hospital.running(), scene.hospital.site() as site:
        child = scene.until_training()
        if by == "site":
            assert site.post("/pause").json()["paused_by_site"]
        else:
            scene.alliance.change(run_status=RunStatus.PAUSED)
        scene.hospital.wait(lambda: scene.hospital.mailbox.waiting)
        assert (scene.round_folder / "snapshot.json").exists()
        assert scene.hospital.row().phase is NodePhase.TRAINING
        assert "paused" in scene.explanation()
        assert child.is_running()
        scene.hold.unlink()
        if by == "site":
            site.post("/resume")
        else:
            scene.alliance.change(run_status=RunStatus.RUNNING)
        scene.until_finished()


def test_a_site_that_was_paused_stays_paused_after_a_restart(scene: Scene) -> None:
    with scene.hospital.running(), scene.hospital.site() as site:
        site.post("/pause")
        scene.hospital.wait(lambda: "paused" in (scene.hospital.mailbox.waiting or ""))
    with scene.hospital.running(), scene.hospital.site() as site:
        scene.hospital.wait(lambda: "paused" in (scene.hospital.mailbox.waiting or ""))
        site.post("/resume")
        scene.until_finished()


@pytest.mark.parametrize("how", ["stopped", "revoked", "withdrawn"])
def test_from_training_to_idle_the_child_ends_and_the_last_model_stays(scene: Scene, how: str) -> None:
    scene.hold.touch()
    with scene.hospital.running(), scene.hospital.site() as site:
        child = scene.until_training()
        (scene.alliance.hub / f"nodes/{AGENT}/{'a' * 64}.part").write_bytes(b"half")
        (scene.hospital.settings.workdir / "store/x.part").write_bytes(b"half")
        if how == "withdrawn":
            site.post(f"/runs/{RUN}/withdraw")  # unknown: this test's alliance never invited it
            site.post(f"/runs/{RUN}/withdraw", params={"wait_s": 10})
        elif how == "revoked":
            scene.alliance.change(revoked=True)
        else:
            scene.alliance.change(finished=True)
        scene.hospital.wait(lambda: scene.hospital.row().facts is None)
        scene.hospital.wait(lambda: not child.is_running())
        if how != "revoked":  # a revoked node can do nothing on the hub; the coordinator tidies up
            scene.hospital.wait(lambda: not scene.hospital.settings.run_folder(RUN).exists())
            assert not list(scene.alliance.hub.rglob("*.part"))
    kept = [path.suffix for path in (scene.hospital.settings.workdir / "store").iterdir()]
    assert kept == [".safetensors"]  # the initial weights
    assert (scene.hospital.settings.model_folder(RUN) / "model.json").exists()


def test_stopped_while_waiting_for_the_plan(scene: Scene) -> None:
    scene.alliance.peers_announce = False
    with scene.hospital.running():
        scene.alliance.wait(lambda: AGENT in scene.alliance.round.updates and scene.alliance.round.number == 1)
        scene.alliance.change(finished=True)
        scene.hospital.wait(lambda: scene.hospital.row().facts is None)


# --- freeze (rule 4) -------------------------------------------------------------------------------------------------


def test_a_late_node_fuses_the_plan_without_itself_and_is_in_the_next_round(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=2)
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
        scene.hold.unlink()
        with scene.alliance.changed:
            scene.alliance._freeze(1)  # the deadline, without this node
            scene.alliance.round.excluded = "late"
            scene.alliance._bump()
        scene.until_finished()
    assert set(scene.alliance.history) == {0, 1, 2}
    assert [body["signed"]["manifest"]["round_number"] for body in scene.alliance.asked("/announce")] == [0, 2]


def test_an_announce_after_the_freeze_is_late_as_well(scene: Scene) -> None:
    """The freeze and the announce cross on the wire."""

    def freeze_first(when: str, path: str) -> None:
        if when == "before" and path.endswith("/rounds/1/announce") and scene.alliance.round.plan is None:
            scene.alliance._freeze(1)
            scene.alliance.change()

    scene.alliance.fault = freeze_first
    with scene.hospital.running():
        scene.until_finished()
    assert scene.alliance.history[1]


# --- one update per node and round (rule 3) --------------------------------------------------------------------------


def test_an_update_accepted_earlier_is_taken_back_from_the_hub(scene: Scene) -> None:
    alliance = scene.alliance
    earlier: list[str] = []

    def announced_before(when: str, path: str) -> None:
        if when == "before" and path.endswith("/rounds/1/announce") and not earlier:
            row = scene.hospital.row().facts
            assert row is not None
            alliance.keys[AGENT] = _key_of(scene.hospital)
            signed = alliance.put(AGENT, GOOD, 1)
            del alliance.keys[AGENT]
            earlier.append(signed.manifest.update_sha256)
            alliance.round.updates[AGENT] = signed
            alliance.change()

    alliance.fault = announced_before
    with scene.hospital.running():
        scene.until_finished()
    assert alliance.asked("/rounds/1/announce")[0]["signed"]["manifest"]["update_sha256"] not in earlier
    assert alliance.history[1] == alliance.asked("/rounds/1/fusion")[-1]["fused_digest"]


def _key_of(hospital: Hospital) -> Ed25519PrivateKey:
    from node_agent.enrol import load_identity

    return load_identity(hospital.settings).keys.signing


def test_a_node_that_lost_its_journal_goes_on_from_what_was_accepted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=2)
    scene.alliance.freezes = True
    scene.alliance.peers_announce = False
    with scene.hospital.running():
        scene.alliance.wait(lambda: scene.alliance.round.number == 1 and AGENT in scene.alliance.round.updates)
    for path in scene.hospital.settings.workdir.glob("journal.sqlite*"):
        path.unlink()
    for path in (scene.hospital.settings.workdir / "store").iterdir():
        path.unlink()
    scene.alliance.change(peers_announce=True)
    with scene.hospital.running():
        scene.until_finished()
    assert set(scene.alliance.history) == {0, 1, 2}
    assert len(scene.alliance.asked("/rounds/1/announce")) == 1


# --- a plan has a version (rule 5) -----------------------------------------------------------------------------------

NAN = {"weight": np.array([0, np.nan, 0, 0], np.float32), "counter": np.array(1, np.int64)}
BAD: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "nan": (NAN, {}, "NaN"),
    "shape": ({**GOOD, "weight": np.ones(5, np.float32)}, {}, "shape"),
    "type": ({**GOOD, "weight": np.ones(4, np.float64)}, {}, "type"),
    "extra": ({**GOOD, "images": np.ones(4, np.float32)}, {}, "images"),
    "missing": ({"weight": GOOD["weight"]}, {}, "counter"),
    "manifest of another file": (GOOD, {"tensors": ()}, "does not belong"),
}


@pytest.mark.parametrize("bad", BAD)
def test_unacceptable_content_is_refused_with_its_reason_and_the_next_plan_is_fused(tmp_path: Path, bad: str) -> None:
    tensors, facts, reason = BAD[bad]
    _refused(tmp_path, lambda alliance: alliance.put(THIRD, tensors, 1, **facts), reason)


def test_an_update_signed_by_somebody_else_is_refused(tmp_path: Path) -> None:
    def forged(alliance: Alliance) -> Any:
        own, alliance.keys[THIRD] = alliance.keys[THIRD], Ed25519PrivateKey.generate()
        signed = alliance.put(THIRD, GOOD, 1)
        alliance.keys[THIRD] = own
        return signed

    _refused(tmp_path, forged, "signature")


def test_an_update_of_another_round_is_refused(tmp_path: Path) -> None:
    def replayed(alliance: Alliance) -> Any:
        signed = alliance.put(THIRD, GOOD, 7)
        sha256 = signed.manifest.update_sha256
        as_round_1 = alliance.hub / manifest_path(THIRD, RUN, 1, sha256).lstrip("/")
        as_round_1.write_bytes(signed.to_bytes())
        return signed

    _refused(tmp_path, replayed, "round_number")


def _refused(folder: Path, publish: Callable[[Alliance], Any], reason: str) -> None:
    scene = Scene(folder, PEER, THIRD)
    alliance = scene.alliance
    alliance.freezes = False
    with scene.hospital.running():
        alliance.wait(lambda: AGENT in alliance.round.updates)
        with alliance.changed:
            alliance._freeze(1)  # round 0
            alliance._bump()
        alliance.wait(lambda: alliance.round.number == 1 and AGENT in alliance.round.updates)
        with alliance.changed:
            alliance.round.updates[THIRD] = publish(alliance)
            alliance._freeze(1)
            alliance._bump()
        alliance.wait(lambda: alliance.asked("/refusals") or alliance.asked("/rounds/1/fusion"))
        (report,) = alliance.asked("/refusals")
        assert (report["owner"], report["kind"], report["plan_version"]) == (THIRD, "content", 1)
        assert reason in report["reason"]
        scene.hospital.wait(lambda: THIRD in (scene.hospital.mailbox.waiting or ""))
        assert not alliance.asked("/rounds/1/fusion")  # nobody fuses a subset on his own
        alliance.new_plan(without=(THIRD,))
        scene.until_finished()
    assert len(alliance.asked("/refusals")) == 1
    assert alliance.history[1]


@pytest.mark.parametrize("lost", ["update", "manifest", "bytes"])
def test_a_file_the_hub_lost_or_damaged_is_reported_and_fetched_when_it_is_back(scene: Scene, lost: str) -> None:
    alliance = scene.alliance
    alliance.peers_announce = alliance.freezes = False
    with scene.hospital.running():
        alliance.wait(lambda: AGENT in alliance.round.updates)
        alliance.change(freezes=True)
        alliance.wait(lambda: alliance.round.number == 1 and AGENT in alliance.round.updates)
        with alliance.changed:
            signed = alliance.put(PEER, GOOD, 1)
            sha256 = signed.manifest.update_sha256
            file = scene.on_hub(PEER, sha256)
            if lost == "manifest":
                file = alliance.hub / manifest_path(PEER, RUN, 1, sha256).lstrip("/")
            right = file.read_bytes()
            file.unlink()
            if lost == "bytes":
                file.write_bytes(right[:-1] + b"!")
            alliance.round.updates[PEER] = signed
            alliance._advance()
            alliance._bump()
        alliance.wait(lambda: alliance.asked("/refusals"))
        report = alliance.asked("/refusals")[0]
        assert (report["owner"], report["kind"], report["update_sha256"]) == (PEER, "missing", sha256)
        file.write_bytes(right)
        scene.until_finished()


def test_a_newer_plan_while_validating_throws_the_fusion_away(tmp_path: Path) -> None:
    """The third member is revoked after this node has fused with it and before the round is complete."""
    scene = Scene(tmp_path, PEER, THIRD)
    alliance = scene.alliance
    plans: list[int] = []

    def revoke_third(when: str, path: str) -> None:
        if when == "after" and path.endswith("/rounds/1/fusion") and not plans:
            plans.append(1)
            alliance.new_plan(without=(THIRD,))

    alliance.fault = revoke_third
    with scene.hospital.running():
        scene.until_finished()
    versions = [body["plan_version"] for body in alliance.asked("/rounds/1/fusion")]
    assert (versions[0], versions[-1]) == (1, 2)
    assert alliance.asked("/rounds/1/fusion")[-1]["fused_digest"] == alliance.history[1]


def test_a_deviating_node_reads_its_files_again_and_fuses_once_more(scene: Scene) -> None:
    alliance, store = scene.alliance, scene.hospital.settings.workdir / "store"
    alliance.round.redo = 0
    asked: list[str] = []

    def ask_again(when: str, path: str) -> None:
        if when == "before" and path.endswith("/rounds/1/fusion") and not asked:
            asked.append(path)
            plan = alliance.round.plan
            assert plan is not None
            theirs = next(entry for entry in plan.entries if entry.node_id == PEER)
            (store / f"{theirs.update_sha256}.safetensors").write_bytes(b"rot on this disk")
            alliance.round.redo = 1

    alliance.fault = ask_again
    with scene.hospital.running():
        scene.until_finished()
    reports = alliance.asked("/rounds/1/fusion")
    assert reports[-1]["attempt"] == 1
    assert reports[-1]["fused_digest"] == alliance.history[1]


# --- publish (rule 7) ------------------------------------------------------------------------------------------------


def test_a_kept_file_is_published_on_request_while_training(scene: Scene) -> None:
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
        assert scene.alliance.initial is not None
        sha256 = scene.alliance.initial.file_sha256
        scene.on_hub(AGENT, sha256).unlink()
        scene.alliance.change(publish=(PublishRequest(run_id=RUN, file_sha256=sha256),))
        scene.alliance.wait(lambda: scene.alliance.asked("/published"))
        assert scene.on_hub(AGENT, sha256).exists()
        (report,) = scene.alliance.asked("/published")
        assert report["file_sha256"] == sha256
        assert scene.hospital.row().phase is NodePhase.TRAINING
        scene.hold.unlink()
        scene.until_finished()


def test_a_request_for_a_file_that_is_not_kept_harms_nothing(scene: Scene) -> None:
    scene.alliance.publish = (PublishRequest(run_id=RUN, file_sha256="a" * 64),)
    with scene.hospital.running():
        scene.until_finished()
    assert not scene.alliance.asked("/published")


def test_an_own_update_that_peers_cannot_find_is_published_again(scene: Scene) -> None:
    alliance = scene.alliance
    alliance.peers_announce = False
    with scene.hospital.running():
        alliance.wait(lambda: alliance.round.number == 1 and AGENT in alliance.round.updates)
        sha256 = alliance.round.updates[AGENT].manifest.update_sha256
        scene.on_hub(AGENT, sha256).unlink()
        alliance.change(republish=(sha256,))
        alliance.wait(lambda: not alliance.republish)
        assert scene.on_hub(AGENT, sha256).exists()
        alliance.change(peers_announce=True)
        scene.until_finished()
    assert len(alliance.asked("/rounds/1/announce")) >= 2
    assert len({body["signed"]["signature"] for body in alliance.asked("/rounds/1/announce")}) == 1


@pytest.mark.parametrize(("when", "rots"), [("collecting", False), ("adopted", False), ("adopted", True)])
def test_an_own_update_that_hub_and_disk_have_lost_is_said_to_be_lost(
    scene: Scene, when: str, rots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could ever publish it again, so nobody may wait for it: the plan goes on without it."""
    alliance, row = scene.alliance, scene.hospital.row
    if when == "adopted":
        monkeypatch.setattr(alliance, "_complete", lambda: alliance.round.number or Alliance._complete(alliance))
    else:
        alliance.peers_announce = False
    with scene.hospital.running():
        alliance.wait(lambda: alliance.round.number == 1 and AGENT in alliance.round.updates)
        if when == "adopted":
            alliance.wait(lambda: any(map(alliance._is_final, alliance.round.reports)))
            scene.hospital.wait(lambda: row().phase is NodePhase.IDLE)
        sha256 = alliance.round.updates[AGENT].manifest.update_sha256
        scene.on_hub(AGENT, sha256).unlink()
        kept = scene.hospital.settings.workdir / "store" / f"{sha256}.safetensors"
        raw = kept.read_bytes()
        kept.unlink()
        if rots:  # after this process has read it
            kept.write_bytes(raw[:-1] + b"!")
        alliance.change(republish=(sha256,), peers_announce=True)
        alliance.wait(lambda: alliance.asked("/refusals"))
        report = alliance.asked("/refusals")[0]
        assert (report["owner"], report["kind"], report["update_sha256"]) == (AGENT, "lost", sha256)
        monkeypatch.undo()
        alliance.republish = ()
        alliance.new_plan(without=(AGENT,))
        scene.until_finished()


def test_a_node_whose_disk_lost_the_start_model_asks_for_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=2)
    alliance = scene.alliance
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
    for path in (scene.hospital.settings.workdir / "store").iterdir():
        path.unlink()
    assert alliance.initial is not None
    lost = scene.on_hub(PEER, alliance.initial.file_sha256)
    gone = lost.rename(lost.with_suffix(".gone"))  # a daemon that has heard nothing yet may still look there
    alliance.on_hub = False
    scene.hold.unlink()
    with scene.hospital.running():
        alliance.wait(lambda: alliance.missing)
        assert alliance.missing == {alliance.initial.file_sha256}
        scene.hospital.wait(lambda: "not on the hub" in (scene.hospital.mailbox.waiting or ""))
        gone.rename(lost)
        alliance.change(on_hub=True)
        scene.until_finished()
    assert set(alliance.history) == {0, 1, 2}


def test_a_start_model_the_hub_lost_is_found_when_it_is_back_although_nobody_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=1)
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
    for path in (scene.hospital.settings.workdir / "store").iterdir():
        path.unlink()
    assert scene.alliance.initial is not None
    lost = scene.on_hub(PEER, scene.alliance.initial.file_sha256)
    content = lost.read_bytes()
    lost.write_bytes(b"damaged")  # still listed, and of no use
    scene.hold.unlink()
    with scene.hospital.running():
        scene.alliance.wait(lambda: scene.alliance.missing)
        lost.write_bytes(content)
        scene.until_finished()


def test_released_rounds_are_deleted_and_kept_ones_stay(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=5)
    alliance = scene.alliance
    store = scene.hospital.settings.workdir / "store"
    kept: list[str] = []

    def release(when: str, path: str) -> None:
        if when == "after" and path.endswith("/fusion"):
            alliance.release_before = max(0, alliance.round.number - 1)
            if alliance.round.number == 2 and alliance.round.start is not None:
                kept[:] = [alliance.round.start.file_sha256]  # the model of round 1 is the best so far
                alliance.keep = tuple(kept)

    alliance.fault = release
    with scene.hospital.running():
        scene.until_finished()
        scene.hospital.wait(lambda: not scene.hospital.settings.run_folder(RUN).exists())
    names = {path.stem for path in store.iterdir()}
    assert alliance.initial is not None
    assert {kept[0], alliance.initial.file_sha256} <= names
    assert len(names) <= 5  # initial, best, and the newest models; all updates are gone
    cards = {path.name for path in scene.hospital.settings.model_folder(RUN).glob("round-*.json")}
    assert "round-0001.json" in cards
    assert "round-0002.json" not in cards


def test_after_a_restart_orphan_parts_go_here_and_on_the_hub(scene: Scene) -> None:
    """Of what nothing in the journal speaks; the part of the round's own update would be gone on with."""
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
    orphan = scene.alliance.hub / f"nodes/{AGENT}/{'a' * 64}.part"
    orphan.write_bytes(b"half")
    here = scene.hospital.settings.workdir / f"store/{'b' * 64}.safetensors.part"
    here.write_bytes(b"half")
    initial = scene.alliance.initial
    assert initial is not None
    wanted = scene.alliance.hub / f"nodes/{AGENT}/{initial.file_sha256}.part"  # a file this node keeps: being published
    wanted.write_bytes(b"half")
    with scene.hospital.running():
        scene.until_training()
        scene.hospital.wait(lambda: not orphan.exists())
        assert not here.exists()
        assert wanted.exists()


def test_at_the_end_of_a_run_half_of_a_kept_model_goes_from_the_hub(scene: Scene) -> None:
    """The model stays here for ever; that alone kept the part, which nobody would have finished."""
    scene.hold.touch()
    with scene.hospital.running():
        scene.until_training()
        initial = scene.alliance.initial
        assert initial is not None
        part = scene.alliance.hub / f"nodes/{AGENT}/{initial.file_sha256}.part"
        part.write_bytes(b"half")
        scene.hold.unlink()
        scene.until_finished()
        scene.hospital.wait(lambda: not part.exists())


def test_the_half_written_update_of_a_late_node_goes_from_the_hub(scene: Scene) -> None:
    """Its line kept breaking; then the plan froze without it, and there was no next try."""
    begun: list[str] = []

    class Breaking(DirectoryExchange):
        def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
            if scene.alliance.round.number == 0:
                return super().put_tensors(source, node_id, sha256, watch)
            (scene.alliance.hub / f"nodes/{AGENT}/{sha256}.part").write_bytes(b"half")
            begun.append(sha256)
            raise ExchangeError(kind=FailureKind.CONNECTION, doing="Publishing")

    with scene.hospital.running(exchange_factory=lambda *_: Breaking(scene.alliance.hub, AGENT)):
        scene.hospital.wait(lambda: begun)
        with scene.alliance.changed:
            scene.alliance._freeze(1)
            scene.alliance.round.excluded = "late"
            scene.alliance._bump()
        scene.until_finished()
        parts = [scene.alliance.hub / f"nodes/{AGENT}/{sha256}.part" for sha256 in begun]
        scene.hospital.wait(lambda: not any(part.exists() for part in parts))


def test_the_status_says_how_fast_an_upload_is_and_that_its_line_stands_still(scene: Scene) -> None:
    """By the site's own clock, over the last seconds; the heartbeat carries the same."""
    done, step = threading.Event(), threading.Event()

    class Slow(DirectoryExchange):
        def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
            if scene.alliance.round.number == 1:
                watch.moved(40_000_000, 95_000_000)  # resumed here
                step.wait(1.2)
                watch.moved(46_000_000, 95_000_000)
                while not done.wait(0.05):
                    assert not watch.cancelled()
            super().put_tensors(source, node_id, sha256, watch)

    def progress() -> dict[str, Any]:
        return site.get("/status").json()["progress"] or {"rate_per_s": None}

    with (
        scene.hospital.running(exchange_factory=lambda *_: Slow(scene.alliance.hub, AGENT)),
        scene.hospital.site() as site,
    ):
        try:
            scene.hospital.wait(lambda: progress()["rate_per_s"])
            first = progress()
            assert (first["unit"], first["done"], first["total"]) == ("bytes", 46_000_000, 95_000_000)
            assert 0 < first["rate_per_s"] <= 5_000_000
            scene.hospital.wait(lambda: progress()["rate_per_s"] == 0)
        finally:
            done.set()
        scene.until_finished()


# --- fetching while waiting ----------------------------------------------------------------------------------------


def test_what_peers_announced_is_here_before_the_plan_freezes(tmp_path: Path) -> None:
    """And is not fetched again: the hub may even have lost it by then."""
    scene = Scene(tmp_path, PEER, THIRD)
    scene.alliance.freezes = False
    with scene.hospital.running():
        scene.alliance.wait(lambda: AGENT in scene.alliance.round.updates)
        scene.alliance.change(freezes=True)  # round 0
        scene.alliance.wait(lambda: scene.alliance.round.number == 1)
        scene.alliance.change(freezes=False)
        scene.alliance.wait(lambda: AGENT in scene.alliance.round.updates and scene.alliance.round.number == 1)
        peers = {node: scene.alliance.round.updates[node].manifest.update_sha256 for node in (PEER, THIRD)}
        store = scene.hospital.settings.workdir / "store"
        scene.hospital.wait(lambda: all((store / f"{sha256}.safetensors").exists() for sha256 in peers.values()))
        scene.hospital.wait(lambda: scene.hospital.row().phase is NodePhase.WAITING)
        hidden = {node: scene.on_hub(node, sha256) for node, sha256 in peers.items()}
        content = {path: path.read_bytes() for path in hidden.values()}
        for path in hidden.values():
            path.unlink()
        got: list[str] = []
        scene.alliance.fault = lambda when, path: got.append(path) if path.endswith("/refusals") else None
        with scene.alliance.changed:
            scene.alliance._freeze(1)
            scene.alliance._bump()
        scene.alliance.wait(lambda: scene.alliance.round.reports)
        assert got == []  # nothing was missed
        for path, data in content.items():
            path.write_bytes(data)
        scene.until_finished()


@pytest.mark.parametrize("damage", ["wrong bytes", "signed by another", "not in the plan"])
def test_what_was_fetched_early_is_verified_like_everything_else(tmp_path: Path, damage: str) -> None:
    """An announcement is nobody's word but the coordinator's; only the plan and the manifest it names count."""
    scene = Scene(tmp_path, PEER, THIRD)
    alliance = scene.alliance
    alliance.peers_announce = False
    with scene.hospital.running():
        alliance.wait(lambda: alliance.round.number == 1)
        with alliance.changed:
            alliance.freezes = False
            alliance.round.updates[PEER] = alliance.put(PEER, GOOD, 1)
            if damage == "signed by another":
                alliance.keys[THIRD], kept = Ed25519PrivateKey.generate(), alliance.keys[THIRD]
            third = alliance.round.updates[THIRD] = alliance.put(THIRD, {name: 2 * GOOD[name] for name in GOOD}, 1)
            if damage == "signed by another":
                alliance.keys[THIRD] = kept
            alliance._bump()
        early = scene.hospital.settings.workdir / f"store/{third.manifest.update_sha256}.safetensors"
        scene.hospital.wait(lambda: early.exists() and scene.hospital.row().phase is NodePhase.WAITING)
        if damage == "wrong bytes":
            size = early.stat().st_size
            early.write_bytes(b"x" * size)  # rot on our own disk, noticed before it is fused: read again from the hub
        with alliance.changed:
            if damage == "not in the plan":
                del alliance.round.updates[THIRD]
            alliance._freeze(1)
            alliance._bump()
        if damage == "signed by another":
            alliance.wait(lambda: alliance.asked("/refusals"))
            assert alliance.asked("/refusals")[-1]["owner"] == THIRD
            assert alliance.round.reports == []
            alliance.new_plan(without=(THIRD,))
        scene.until_finished()
    assert alliance.asked("/rounds/1/fusion")[-1]["fused_digest"] == alliance.history[1]


# --- what fails and comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_message_may_be_lost_once_request_or_reply(tmp_path: Path, when: str) -> None:
    quiet = Scene(tmp_path / "quiet")
    with quiet.hospital.running():
        quiet.until_finished()
    scene = Scene(tmp_path / "lossy")
    lost: set[str] = set()

    def lose(at: str, path: str) -> None:
        if at == when and path not in lost and not path.endswith("enrol"):
            lost.add(path)
            raise httpx.ReadError("the line broke")

    scene.alliance.fault = lose
    with scene.hospital.running():
        scene.until_finished()
    assert scene.alliance.history == quiet.alliance.history
    assert len(lost) >= 6


def test_training_goes_on_while_the_coordinator_is_away(scene: Scene) -> None:
    scene.hold.touch()
    away: list[bool] = []

    def fault(when: str, path: str) -> None:
        if away:
            raise httpx.ConnectError("nobody there")

    scene.alliance.fault = fault
    with scene.hospital.running():
        scene.until_training()
        away.append(True)
        scene.hold.unlink()
        scene.until_phase(NodePhase.ANNOUNCING)
        scene.hospital.wait(lambda: scene.hospital.row().attempt >= 2)
        assert "could not be reached" in scene.explanation()
        away.clear()
        scene.until_finished()


def test_a_child_that_dies_is_started_again_and_the_round_repeated(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "die").touch()
    with scene.hospital.running():
        scene.until_finished()
    trained = [line for line in scene.hospital.asked_trainer() if "train_round" in line]
    assert len(trained) == 2
    assert trained[0] != trained[1]  # another process


def test_a_killed_child_too(scene: Scene) -> None:
    scene.hold.touch()
    with scene.hospital.running():
        child = scene.until_training()
        child.kill()
        scene.hospital.wait(lambda: scene.hospital.row().attempt == 1 or scene.hospital.asked_trainer()[-1:])
        scene.hold.unlink()
        scene.until_finished()
    assert set(scene.alliance.history) == {0, 1}


def test_a_permanent_failure_is_said_and_hsl_node_retry_returns_to_the_phase(scene: Scene) -> None:
    binding = scene.hospital.settings.bindings_folder / "fracture.json"
    content = binding.read_bytes()
    binding.unlink()
    with scene.hospital.running(), scene.hospital.site() as site:
        scene.until_phase(NodePhase.FAILED)
        status = site.get("/status").json()
        assert status["failure_code"] == "binding_missing"
        assert "hsl node bind" in status["explanation"]
        scene.alliance.wait(lambda: "binding_missing" in str(scene.alliance.asked("/heartbeat")))
        binding.write_bytes(content)
        site.post("/retry")
        scene.until_finished()


def test_a_journal_that_cannot_be_written_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    move, failures = Journal.move, iter(range(3))

    def sometimes_full(self: Journal, phase: NodePhase, facts: Any) -> None:
        if phase is NodePhase.UPLOADING and next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        move(self, phase, facts)

    monkeypatch.setattr(Journal, "move", sometimes_full)
    with scene.hospital.running():
        scene.until_finished()
    assert next(failures, None) is None


def test_a_full_disk_is_said_with_what_to_free_and_the_round_goes_on(tmp_path: Path) -> None:
    """Transient, with a time of the next try; never a crash, and nothing is lost."""
    with small_disk(tmp_path / "a", RESERVE_BYTES + 20 * MB) as disk:
        scene = Scene(tmp_path)
        scene.hold.touch()
        with scene.hospital.running(), scene.hospital.site() as site:
            scene.until_training()
            ballast = fill(disk, leave=RESERVE_BYTES // 2)
            scene.hold.unlink()
            scene.hospital.wait(lambda: scene.hospital.row().failure is not None)
            row = scene.hospital.row()
            assert row.failure is not None
            assert (row.failure.code, row.phase) == ("no_space", NodePhase.UPLOADING)
            assert row.retry_at is not None
            assert "Free at least" in site.get("/status").json()["explanation"]
            ballast.unlink()
            scene.until_finished()


def test_a_node_that_deviated_starts_from_the_ledgers_model_and_shows_that_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_rounds=2)
    alliance = scene.alliance

    def spoil(when: str, path: str) -> None:
        """The round completes with another model than this node fused: it was outvoted."""
        if when == "before" and path.endswith("/rounds/1/fusion") and alliance.round.plan is not None:
            first = alliance.round.plan.entries[0]
            heavier = first.model_copy(update={"weight": 0.25})
            alliance.round.plan = alliance.round.plan.model_copy(
                update={"entries": (heavier, *alliance.round.plan.entries[1:])}
            )

    alliance.fault = spoil
    with scene.hospital.running():
        scene.until_finished()
    reported = alliance.asked("/rounds/1/fusion")[-1]["fused_digest"]
    assert reported != alliance.history[1]
    card = read_model_card(scene.hospital.settings.model_folder(RUN) / "round-0001.json")
    assert card.fused_digest == alliance.history[1]
    signed = alliance.asked("/rounds/2/announce")[0]["signed"]["manifest"]
    assert signed["start_digest"] == alliance.history[1]
