"""Plans that name fusers, seen from one agent: it fuses for the others, or it takes over what they have fused."""

from pathlib import Path

import numpy as np
import pytest

from hsl_model.checkpoint import write_tensors
from hsl_model.protocol.paths import tensor_path
from hsl_model.protocol.states import NodePhase
from node_agent.exchange.base import TransferWatch
from node_agent.exchange.directory import DirectoryExchange
from tests.node_agent.alliance import AGENT, PEER, RUN, Alliance, make_config
from tests.node_agent.helpers import Hospital
from tests.node_agent.test_daemon_crashes import Killed, Killer

THIRD = "hospital-c"


class Counting(DirectoryExchange):
    """Remembers whose tensors were fetched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, AGENT)
        self.fetched: list[tuple[str, str]] = []

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        self.fetched.append((node_id, sha256))
        super().get_tensors(node_id, sha256, num_bytes, target, watch)


class Scene:
    def __init__(self, folder: Path, fusers: tuple[str, ...], num_rounds: int = 1) -> None:
        config = make_config(num_rounds=num_rounds, nodes=(AGENT, PEER, THIRD))
        self.alliance = Alliance(folder, config, (PEER, THIRD))
        self.alliance.fusers = fusers
        self.hospital = Hospital(folder / "a", self.alliance).join()
        self.exchange = Counting(self.alliance.hub)

    def run(self) -> None:
        with self.hospital.running(exchange_factory=lambda *_: self.exchange):
            self.until_finished()

    def until_finished(self) -> None:
        self.alliance.wait(lambda: self.alliance.finished)
        self.hospital.wait(lambda: self.hospital.row().facts is None)

    def digests(self, round_number: int = 1) -> set[str]:
        return {body["fused_digest"] for body in self.alliance.asked(f"/rounds/{round_number}/fusion")}

    def on_hub(self, node_id: str, sha256: str) -> Path:
        return self.alliance.hub / tensor_path(node_id, sha256).lstrip("/")


def fused_file(alliance: Alliance) -> str:
    assert alliance.round.fused is not None
    return alliance.round.fused.file_sha256


def test_a_fuser_publishes_what_it_has_fused_and_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, (AGENT, THIRD))
    scene.run()
    assert scene.digests() == {scene.alliance.history[1]}
    (said,) = scene.alliance.asked("/published")
    assert said["run_id"] == RUN
    assert scene.on_hub(AGENT, said["file_sha256"]).read_bytes() == scene.on_hub(PEER, said["file_sha256"]).read_bytes()
    order = [path.rpartition("/")[2] for path, _ in scene.alliance.requests if path.endswith(("fusion", "published"))]
    assert order[-3:] == ["fusion", "published", "fusion"]  # known to the coordinator before it lies on the hub
    costs = scene.alliance.asked("/rounds/1/fusion")[-1]["costs"]
    update_bytes = scene.alliance.asked("/rounds/1/announce")[0]["signed"]["manifest"]["update_bytes"]
    assert costs["bytes_up"] > 2 * update_bytes


def test_the_others_take_one_file_and_no_update_over(tmp_path: Path) -> None:
    scene = Scene(tmp_path, (PEER, THIRD), num_rounds=2)
    scene.run()
    assert scene.alliance.history.keys() == {0, 1, 2}
    for number in (1, 2):
        assert scene.digests(number) == {scene.alliance.history[number]}
    store = {path.name.partition(".")[0] for path in (scene.hospital.settings.workdir / "store").iterdir()}
    fetched = {sha256 for _, sha256 in scene.exchange.fetched}
    assert len(fetched) == len(scene.exchange.fetched) == 2
    assert fetched <= store
    assert scene.alliance.asked("/published") == []
    started = scene.alliance.asked("/rounds/2/announce")[0]["signed"]["manifest"]["start_digest"]
    assert started == scene.alliance.history[1]


def test_until_the_fusers_agree_it_waits_and_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, (PEER, THIRD))
    alliance = scene.alliance
    alliance.agree = False
    with scene.hospital.running():
        scene.hospital.wait(lambda: "fusers are still at work" in (scene.hospital.mailbox.waiting or ""))
        assert scene.hospital.row().phase is NodePhase.DOWNLOADING
        assert scene.digests() == set()
        with alliance.changed:
            assert alliance.round.plan is not None
            alliance.round.fused = alliance._fuse_at_peer(alliance.round.plan)
            alliance._bump()
        scene.until_finished()
    assert scene.digests() == {alliance.history[1]}


def test_wrong_bytes_in_one_fusers_folder_are_reported_and_the_next_one_is_asked(tmp_path: Path) -> None:
    scene = Scene(tmp_path, (PEER, THIRD))
    alliance = scene.alliance
    alliance.agree = False
    with scene.hospital.running():
        scene.hospital.wait(lambda: scene.hospital.row().phase is NodePhase.DOWNLOADING)
        scene.hospital.wait(lambda: "at work" in (scene.hospital.mailbox.waiting or ""))
        with alliance.changed:
            assert alliance.round.plan is not None
            alliance.round.fused = alliance._fuse_at_peer(alliance.round.plan)
            right, copy = (scene.on_hub(node, fused_file(alliance)) for node in (PEER, THIRD))
            copy.write_bytes(right.read_bytes())
            right.write_bytes(bytes(right.stat().st_size))
            alliance._bump()
        scene.until_finished()
    (said,) = alliance.asked("/refusals")
    assert (said["owner"], said["kind"]) == (PEER, "missing")
    assert scene.digests() == {alliance.history[1]}


@pytest.mark.parametrize("damage", ["not finite", "another shape", "another digest"])
def test_a_fused_file_that_is_no_model_of_the_run_is_not_adopted(tmp_path: Path, damage: str) -> None:
    """The fusers agree on it, and its bytes are the ledger's: believed no more than an update."""
    scene = Scene(tmp_path, (PEER, THIRD))
    alliance = scene.alliance
    alliance.agree = False
    tensors = {"weight": np.ones(5 if damage == "another shape" else 4, np.float32), "counter": np.array(1, np.int64)}
    if damage == "not finite":
        tensors["weight"][0] = np.nan
    made = write_tensors(tmp_path / "bad.safetensors", tensors)
    with scene.hospital.running():
        scene.hospital.wait(lambda: "at work" in (scene.hospital.mailbox.waiting or ""))
        with alliance.changed:
            assert alliance.round.plan is not None
            digest = alliance._fuse_at_peer(alliance.round.plan).fused_digest if "digest" in damage else made.sha256
            scene.on_hub(PEER, made.sha256).write_bytes(made.path.read_bytes())
            alliance.round.fused = alliance._fuse_at_peer(alliance.round.plan).model_copy(
                update={"fused_digest": digest, "file_sha256": made.sha256, "file_bytes": made.num_bytes}
            )
            alliance._bump()
        alliance.wait(lambda: alliance.asked("/refusals"))
        (said,) = alliance.asked("/refusals")
        assert (said["owner"], said["kind"], said["update_sha256"]) == (PEER, "content", made.sha256)
        assert alliance.asked("/rounds/1/fusion") == []
        alliance.fusers = ()
        alliance.new_plan(without=())  # now everybody fuses
        scene.until_finished()
    assert scene.digests() == {alliance.history[1]}


@pytest.mark.parametrize("fusers", [(AGENT, THIRD), (PEER, THIRD)], ids=["as a fuser", "as one that waits"])
def test_killed_in_every_phase_it_ends_with_the_same_models(tmp_path: Path, fusers: tuple[str, ...]) -> None:
    quiet = Scene(tmp_path / "quiet", ())
    quiet.run()
    scene, killer = Scene(tmp_path / "killed", fusers), Killer(("after",), (1,))
    while not scene.alliance.finished:
        with scene.hospital.running(killer.phases()):
            scene.alliance.wait(lambda: scene.hospital.failure or scene.alliance.finished)
        if scene.hospital.failure is not None:
            assert isinstance(scene.hospital.failure, Killed)
            scene.hospital.failure = None
    collecting = {NodePhase.DOWNLOADING, NodePhase.VERIFYING, NodePhase.FUSING, NodePhase.ADOPTING}
    assert {phase for _, phase, _ in killer.killed} >= collecting
    assert scene.alliance.history == quiet.alliance.history
    assert scene.digests() == {quiet.alliance.history[1]}
