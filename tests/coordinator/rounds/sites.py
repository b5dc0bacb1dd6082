"""Sites that do what agents do, as far as the coordinator sees it: real signatures, made-up digests."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from hsl_model.protocol import transport
from hsl_model.protocol.config import (
    ConvergenceConfig,
    InitialWeights,
    MethodConfig,
    NetworkConfig,
    QuorumConfig,
    RunConfig,
    TaskConfig,
)
from hsl_model.protocol.manifest import SignedManifest, TensorSpec, UpdateManifest, UpdateMetrics, sign
from hsl_model.protocol.messages import (
    AcceptRequest,
    AnnounceRequest,
    Assignment,
    ClassCounts,
    DesiredRequest,
    DesiredState,
    FusionReport,
    Heartbeat,
    Progress,
    PublishedReport,
    RefusalKind,
    RefusalReport,
    TruthCounts,
    ValidationMetrics,
)
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, NodePhase
from hsl_model.protocol.transport import API
from hsl_model.protocol.views import RoundView, RunView
from tests.coordinator.helpers import Alliance

NODES = ("node-a", "node-b", "node-c")
TASK = TaskConfig(task_id="fracture", positive_class="yes", negative_class="no", modality="radiograph")
ALL_TENSORS = (
    TensorSpec(name="encoder.weight", dtype="F32", shape=(4, 3)),
    TensorSpec(name="private.weight", dtype="F32", shape=(2,)),
)
SHARED = ALL_TENSORS[:1]
EMPTY = hashlib.sha256(b"").hexdigest()


def sha(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def run_config(**changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "name": "test",
        "task": TASK,
        "nodes": NODES,
        "method": MethodConfig(name="swarm"),
        "network": NetworkConfig(encoder="resnet_small"),
        "num_rounds": 3,
        "convergence": ConvergenceConfig(enabled=False),
        "quorum": QuorumConfig(min_nodes=2),
        "initial": InitialWeights(seed=1),
    }
    return RunConfig(**{**base, **changes})


@dataclass
class Site:
    """One hospital. `num_cases` differ, so that weights by cases differ."""

    speaker: Any  # a NodeSpeaker, or one without HTTP
    num_cases: int = 100
    sent: list[tuple[str, Any]] = field(default_factory=list)  # every message, to be repeated by tests

    @property
    def node_id(self) -> str:
        return self.speaker.node_id

    def say(self, path: str, body: Any = None) -> Any:
        self.sent.append((path, body))
        return self.speaker.post(path, body)

    def ok(self, reply: Any) -> Any:
        assert reply.is_success, reply.text
        return reply

    # --- asking ---

    def desired(self, missing: tuple[str, ...] = ()) -> DesiredState:
        request = DesiredRequest(wait_s=0, missing=missing)
        return DesiredState.model_validate_json(self.ok(self.speaker.post(transport.DESIRED, request)).content)

    def assignment(self) -> Assignment:
        found = self.desired().assignment
        assert found is not None
        return found

    # --- saying ---

    def accept(self, run_id: str, sat_digest: str | None = None) -> Any:
        counts = TruthCounts(
            training=ClassCounts(positive=self.num_cases // 2, negative=self.num_cases - self.num_cases // 2),
            validation=ClassCounts(positive=5, negative=5),
            test=ClassCounts(positive=5, negative=5),
        )
        return self.say(transport.accept(run_id), AcceptRequest(counts=counts, sat_digest=sat_digest))

    def withdraw(self, run_id: str) -> Any:
        return self.say(transport.withdraw(run_id))

    def heartbeat(self, phase: NodePhase, wish: Assignment | None = None, **fields: Any) -> Any:
        where = {} if wish is None else {"run_id": wish.run_id, "round_number": wish.round_number}
        return self.say(transport.HEARTBEAT, Heartbeat(phase=phase, **where, **fields))

    def uploading(self, wish: Assignment, done: int) -> Any:
        return self.heartbeat(NodePhase.UPLOADING, wish, progress=Progress(unit="bytes", done=done, total=100))

    def manifest(self, wish: Assignment, **changes: Any) -> SignedManifest:
        kind = method_facts(wish.config.method.name).fused if wish.round_number else Fused.COMMON
        empty = kind is Fused.NONE
        values: dict[str, Any] = {
            "run_id": wish.run_id,
            "round_number": wish.round_number,
            "node_id": self.node_id,
            "update_sha256": EMPTY if empty else sha("update", wish.run_id, wish.round_number, self.node_id),
            "update_bytes": 0 if empty else 1000,
            "tensors": () if empty else SHARED if wish.round_number else ALL_TENSORS,
            "start_digest": wish.start.fused_digest if wish.start else None,
            "num_cases": self.num_cases,
            "metrics": UpdateMetrics(validation_auc=0.7, shared_epoch=1, num_steps=50),
        }
        return sign(UpdateManifest(**{**values, **changes}), self.speaker.signing_key)

    def announce(self, wish: Assignment, **changes: Any) -> Any:
        return self.announce_signed(wish, self.manifest(wish, **changes))

    def announce_signed(self, wish: Assignment, signed: SignedManifest) -> Any:
        return self.say(transport.announce(wish.run_id, wish.round_number), AnnounceRequest(signed=signed))

    def fusion(self, wish: Assignment, *, auc: float | None = 0.7, **changes: Any) -> Any:
        """The report after adopting; `validation=None` is the one before it."""
        assert wish.plan is not None
        kind = method_facts(wish.config.method.name).fused if wish.round_number else Fused.COMMON
        parts = [(entry.node_id, entry.update_sha256, entry.weight) for entry in wish.plan.entries]
        values: dict[str, Any] = {
            "plan_version": wish.plan.version,
            "fused_digest": sha("fused", wish.run_id, wish.round_number, parts),
            "file_sha256": sha("file", wish.run_id, wish.round_number, parts) if kind is Fused.COMMON else None,
            "file_bytes": 1000 if kind is Fused.COMMON else None,
            "attempt": wish.redo_fusion,
            "validation": ValidationMetrics(auc=auc, num_cases=10),
        }
        report = FusionReport(**{**values, **changes})
        return self.say(transport.fusion(wish.run_id, wish.round_number), report)

    def fuse(self, wish: Assignment, *, auc: float | None = 0.7, **changes: Any) -> Any:
        """What a member does whose turn it is: a fuser publishes too, and whoever waits for the fusers takes theirs."""
        assert wish.plan is not None
        if not wish.plan.is_fused_by(self.node_id):
            assert wish.fused is not None
            taken = {"fused_digest": wish.fused.fused_digest, "file_sha256": wish.fused.file_sha256}
            return self.fusion(wish, auc=auc, **{**taken, **changes})
        reply = self.fusion(wish, auc=auc, **changes)
        if reply.is_success and self.node_id in wish.plan.fusers:
            said = self.sent[-1][1]
            return self.published(wish.run_id, said.file_sha256, said.file_bytes)
        return reply

    def refuse(self, wish: Assignment, owner: str, kind: RefusalKind = RefusalKind.CONTENT, **changes: Any) -> Any:
        assert wish.plan is not None
        updates = {entry.node_id: entry.update_sha256 for entry in wish.plan.entries}
        values: dict[str, Any] = {
            "plan_version": wish.plan.version,
            "owner": owner,
            "update_sha256": updates.get(owner, sha("unknown")),
            "kind": kind,
            "reason": "not finite",
        }
        report = RefusalReport(**{**values, **changes})
        return self.say(transport.refusals(wish.run_id, wish.round_number), report)

    def published(self, run_id: str, file_sha256: str, file_bytes: int = 1000) -> Any:
        report = PublishedReport(run_id=run_id, file_sha256=file_sha256, file_bytes=file_bytes)
        return self.say(transport.PUBLISHED, report)


@dataclass
class Federation:
    """An alliance with sites and one run, and shorthands to bring a round somewhere."""

    alliance: Any  # an Alliance, or one without HTTP
    sites: dict[str, Site]
    run_id: str = ""

    def __getitem__(self, node_id: str) -> Site:
        return self.sites[node_id]

    def create(self, **changes: Any) -> str:
        reply = self.alliance.admin.post(f"{API}/runs", run_config(**changes))
        assert reply.status_code == 201, reply.text
        self.run_id = str(reply.json()["run_id"])
        return self.run_id

    def begin(self, **changes: Any) -> "Federation":
        """Created, accepted by all its nodes, started: round 0 is open."""
        self.create(**changes)
        for node_id in self.run.config.nodes:
            self[node_id].ok(self[node_id].accept(self.run_id, changes.get("sat_digest")))
        self.move("start")
        return self

    def move(self, verb: str) -> RunView:
        reply = self.alliance.admin.post(f"{API}/runs/{self.run_id}/{verb}")
        assert reply.is_success, reply.text
        return RunView.model_validate_json(reply.content)

    def revoke(self, node_id: str) -> None:
        assert self.alliance.admin.post(f"{API}/nodes/{node_id}/revoke").is_success
        del self.sites[node_id]

    @property
    def run(self) -> RunView:
        return RunView.model_validate_json(self.alliance.admin.get(f"{API}/runs/{self.run_id}").content)

    def round(self, round_number: int | None = None) -> RoundView:
        number = self.run.round_number if round_number is None else round_number
        reply = self.alliance.admin.get(f"{API}/runs/{self.run_id}/rounds/{number}")
        assert reply.is_success, reply.text
        return RoundView.model_validate_json(reply.content)

    def statuses(self, round_number: int | None = None) -> dict[str, str]:
        return {
            one.node_id: f"{one.status}({one.reason})" if one.reason else str(one.status)
            for one in self.round(round_number).participations
        }

    def wishes(self) -> list[tuple[Site, Assignment]]:
        """Sites that have an assignment now."""
        found = [(site, site.desired().assignment) for site in self.sites.values()]
        return [(site, wish) for site, wish in found if wish is not None]

    def announce_all(self) -> None:
        for site, wish in self.wishes():
            if wish.round_status == "open" and (wish.round_number > 0 or wish.is_initialiser):
                site.ok(site.announce(wish))

    def fuse_all(self, auc: float | None = 0.7) -> None:
        for site, wish in self.wishes():
            if wish.plan and wish.participation in ("fusing", "fused") and wish.plan.is_fused_by(site.node_id):
                site.ok(site.fuse(wish, auc=auc))
        for site, wish in self.wishes():
            if wish.plan and not wish.plan.is_fused_by(site.node_id) and wish.fused is not None:
                site.ok(site.fuse(wish, auc=auc))

    def play_round(self, auc: float | None = 0.7) -> None:
        self.announce_all()
        self.fuse_all(auc)

    def to_round(self, round_number: int) -> "Federation":
        """Play the rounds before it; it is open then."""
        for _ in range(round_number - (self.run.round_number or 0)):
            self.play_round()
        return self

    def to_fusing(self, round_number: int) -> "Federation":
        """Its plan is frozen, nobody has reported."""
        self.to_round(round_number).announce_all()
        return self


def enrolled(alliance: Alliance, names: tuple[str, ...] = NODES) -> Federation:
    """Enrolled sites with 60, 120, 180, … training cases."""
    return Federation(
        alliance, {node_id: Site(alliance.enrol(node_id), 60 * (i + 1)) for i, node_id in enumerate(names)}
    )
