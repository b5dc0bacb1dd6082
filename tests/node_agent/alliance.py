"""An alliance of one real agent and simulated peers: a coordinator and a hub in memory, as small as the rules allow.

The peers announce as soon as they are allowed to; their updates are written into the hub's folder, signed by their own
keys. Only what the agent under test can observe is modelled.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_model.averaging import FusionInput, fuse, inputs_digest
from hsl_model.checkpoint import TensorFile, write_tensors
from hsl_model.protocol import transport
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.config import MethodConfig, QuorumConfig, RunConfig, TaskConfig
from hsl_model.protocol.ledger import Mark
from hsl_model.protocol.manifest import (
    SignedManifest,
    UpdateManifest,
    UpdateMetrics,
    public_key_text,
    sign,
    verify_by_any,
)
from hsl_model.protocol.messages import (
    Announced,
    Assignment,
    DesiredState,
    EnrolReply,
    FusedFile,
    FusionPlan,
    HubAddress,
    Invitation,
    PlanEntry,
    PublishRequest,
    Recovery,
    RosterEntry,
    RotateRequest,
)
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.paths import manifest_path, tensor_path
from hsl_model.protocol.rotation import KeyRotation, SignedRotation, access_digest, is_sound, sign_rotation
from hsl_model.protocol.states import Fused, ParticipationStatus, RoundStatus, RunStatus

AGENT = "hospital-a"
PEER = "hospital-b"
RUN = "run-1"
HUB = HubAddress(host="127.0.0.1", port=2022, username=AGENT, host_key="ssh-ed25519 AAAA")
EMPTY = hashlib.sha256(b"").hexdigest()


def make_config(method: str = "swarm", num_rounds: int = 2, **changes: Any) -> RunConfig:
    task = TaskConfig(
        task_id="fracture",
        positive_class="fracture",
        negative_class="normal",
        modality="radiograph",
        height=16,
        width=16,
    )
    given = {
        "name": "test",
        "task": task,
        "nodes": (AGENT, PEER),
        "method": MethodConfig(name=method),
        "num_rounds": num_rounds,
        "quorum": QuorumConfig(min_nodes=1),
    }
    return RunConfig(**{**given, **changes})


@dataclass
class Round:
    number: int
    start: FusedFile | None
    updates: dict[str, SignedManifest] = field(default_factory=dict)
    plan: FusionPlan | None = None
    redo: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    excluded: str | None = None  # the agent, and why
    fused: FusedFile | None = None  # what the peers agree on, where they fuse for the agent


class Alliance:
    """`transport()` answers the agent; the attributes are what a test turns."""

    def __init__(
        self, folder: Path, config: RunConfig, peers: tuple[str, ...] = (PEER,), *, invited: bool = False
    ) -> None:
        self.hub = folder / "hub"
        self.work = folder / "peers"
        self.work.mkdir(parents=True)
        self.config = config
        self.peers = peers
        self.keys = {peer: Ed25519PrivateKey.generate() for peer in peers}
        self.agent_key = ""  # the agent's public signing key
        self.token_hash, self.next_token_hash = "", ""
        self.rotations: list[SignedRotation] = []  # of any node
        self.earlier: dict[str, tuple[str, ...]] = {}  # node -> keys that still count in the round
        self.host_key = HUB.host_key
        self.changed = threading.Condition()
        self.version = 0
        self.invited = invited  # whether the agent has still to accept
        self.run_status = RunStatus.RUNNING
        self.finished = False
        self.assigned = True
        self.freezes = True  # whether plans freeze by themselves
        self.peers_announce = True
        self.revoked = False
        self.ledger = Mark("a" * 32, 1, 1)
        self.recovery: Recovery | None = None  # the ledger was restored from a backup
        self.known_revoked: tuple[str, ...] = ()
        self.keep: tuple[str, ...] = ()
        self.release_before = 0
        self.publish: tuple[PublishRequest, ...] = ()
        self.republish: tuple[str, ...] = ()
        self.fusers: tuple[str, ...] = ()  # from round 1 on; empty: everybody
        self.agree = True  # whether fusers that are peers agree at once
        self.on_hub = True  # whether fused models are said to lie on the hub
        self.missing: set[str] = set()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.history: dict[int, str] = {}  # round -> fused digest the peers got
        self.boots: list[tuple[str, str]] = []
        self.initial: FusedFile | None = None
        self.fault: Callable[[str, str], None] = lambda when, path: None
        self.round = Round(0, None)
        for peer in (AGENT, *peers):
            (self.hub / "nodes" / peer).mkdir(parents=True)

    # --- what a test does ---------------------------------------------------------------------------------------------

    def change(self, **values: Any) -> None:
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self._advance()
            self._bump()

    def wait(self, condition: Callable[[], object], timeout_s: float = 120.0) -> None:
        assert until(self.changed, condition, timeout_s), self.describe()

    def asked(self, suffix: str) -> list[dict[str, Any]]:
        return [body for path, body in self.requests if path.endswith(suffix)]

    def describe(self) -> str:
        return f"round {self.round.number}, plan {self.round.plan}, last {[path for path, _ in self.requests[-12:]]}"

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def new_plan(self, without: tuple[str, ...]) -> None:
        """The next version of the plan, without some members."""
        with self.changed:
            assert self.round.plan is not None
            self.round.updates = {node: one for node, one in self.round.updates.items() if node not in without}
            self._freeze(self.round.plan.version + 1)
            self._bump()

    def put(self, node_id: str, content: Mapping[str, np.ndarray], round_number: int, **facts: Any) -> SignedManifest:
        """Publish an update in a peer's name, as that peer would."""
        made = write_tensors(self.work / f"{node_id}-{round_number}.safetensors", content)
        with TensorFile(made.path) as file:
            specs = file.specs
        manifest = UpdateManifest(
            run_id=RUN,
            round_number=round_number,
            node_id=node_id,
            update_sha256=made.sha256,
            update_bytes=made.num_bytes,
            tensors=facts.pop("tensors", specs),
            start_digest=self.round.start.fused_digest if self.round.start else None,
            num_cases=facts.pop("num_cases", 10 if round_number else 0),
            metrics=UpdateMetrics(validation_auc=0.5, shared_epoch=1, num_steps=1),
            **facts,
        )
        signed = sign(manifest, self.keys[node_id])
        self._on_hub(tensor_path(node_id, made.sha256)).write_bytes(made.path.read_bytes())
        self._on_hub(manifest_path(node_id, RUN, round_number, made.sha256)).write_bytes(signed.to_bytes())
        return signed

    def _on_hub(self, path: str) -> Path:
        return self.hub / path.lstrip("/")

    def rotate_peer(self, peer: str, *, signed: bool = True) -> None:
        """A new signing key for a peer; `signed`: with its old key's word for it."""
        old, new = self.keys[peer], Ed25519PrivateKey.generate()
        said = KeyRotation(node_id=peer, old=public_key_text(old), new=public_key_text(new), access_sha256="ab" * 32)
        with self.changed:
            if signed:
                self.rotations.append(sign_rotation(said, old, new))
                self.earlier[peer] = (public_key_text(old),)
            self.keys[peer] = new
            self._bump()

    # --- the coordinator ----------------------------------------------------------------------------------------------

    def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.fault("before", path)
        with self.changed:
            boot = (request.headers.get("X-HSL-Boot", ""), request.headers.get("X-HSL-Boot-Id", ""))
            if boot not in self.boots and boot[0]:
                self.boots.append(boot)
            if self.revoked:
                return problem(403, "node_revoked")
            if path != transport.ENROL and not self._knows(request.headers.get("Authorization", "")):
                return problem(401, "node_token_invalid")
            self.requests.append((path, body))
            reply = self._answer(path, body)
            self.changed.notify_all()
        self.fault("after", path)
        reply.headers[transport.LEDGER_HEADER] = self.ledger.header()
        return reply

    def _answer(self, path: str, body: dict[str, Any]) -> httpx.Response:
        if path == transport.ENROL:
            return self._enrol(body)
        if path == transport.DESIRED:
            return self._poll(body)
        if path == transport.HUB:
            return answer(HUB.model_copy(update={"host_key": self.host_key}))
        if path == transport.ROTATE:
            self._rotate(RotateRequest.model_validate(body))
        elif path.endswith("/accept"):
            self.invited = False
        elif path.endswith("/announce"):
            return self._announce(body)
        elif path.endswith("/fusion"):
            return self._fusion(body)
        elif path.endswith("/withdraw"):
            self.finished, self.assigned = True, False
        self._advance()
        if path != transport.HEARTBEAT:
            self._bump()
        return httpx.Response(204)

    def _knows(self, authorization: str) -> bool:
        """The old token until the new one is used, as the coordinator does."""
        digest = _digest(authorization.removeprefix("Bearer "))
        if digest == self.next_token_hash:
            self.token_hash, self.next_token_hash = digest, ""
        return digest == self.token_hash

    def _rotate(self, request: RotateRequest) -> None:
        said = request.signed.rotation
        assert is_sound(request.signed, AGENT)
        assert said.access_sha256 == access_digest(request.ssh_public_key, request.token_sha256)
        if request.token_sha256 in (self.token_hash, self.next_token_hash):
            return
        assert said.old == self.agent_key
        self.agent_key, self.next_token_hash = said.new, request.token_sha256
        self.rotations.append(request.signed)
        self.earlier[AGENT] = (said.old,)

    def _enrol(self, body: dict[str, Any]) -> httpx.Response:
        if body["code"] != "right-code":
            return problem(403, "enrolment_code_invalid")
        self.agent_key, self.token_hash = body["signing_public_key"], _digest("hsln_a_secret")
        return answer(EnrolReply(node_id=AGENT, alliance="test alliance", token="hsln_a_secret", hub=HUB))

    def _poll(self, body: dict[str, Any]) -> httpx.Response:
        new = set(body["missing"]) - self.missing
        self.missing |= new
        if new:
            self._bump()
        if not new:
            self.changed.wait_for(lambda: str(self.version) != body["known_version"], body["wait_s"])
        return problem(403, "node_revoked") if self.revoked else answer(self.desired())

    def _bump(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def desired(self) -> DesiredState:
        roster = [self._entry(peer, public_key_text(key)) for peer, key in self.keys.items()]
        invitations = (Invitation(run_id=RUN, config=self.config),) if self.invited else ()
        return DesiredState(
            version=str(self.version),
            generation=self.ledger.generation,
            recovery=self.recovery,
            revoked=self.known_revoked,
            invitations=invitations,
            roster=(self._entry(AGENT, self.agent_key), *roster),
            assignment=self._assignment() if self.assigned and not self.finished and not self.invited else None,
            publish=self.publish,
            finished_runs=(RUN,) if self.finished else (),
        )

    def _entry(self, node_id: str, key: str) -> RosterEntry:
        rotations = tuple(one for one in self.rotations if one.rotation.node_id == node_id)
        earlier = self.earlier.get(node_id, ())
        return RosterEntry(node_id=node_id, signing_public_key=key, rotations=rotations, earlier=earlier)

    def _assignment(self) -> Assignment:
        now, own = self.round, self.round.updates.get(AGENT)
        status = ParticipationStatus.ASSIGNED if own is None else ParticipationStatus.ANNOUNCED
        if now.excluded:
            status = ParticipationStatus.EXCLUDED
        return Assignment(
            run_id=RUN,
            run_status=self.run_status,
            config=self.config,
            members=(AGENT, *self.peers),
            round_number=now.number,
            round_status=RoundStatus.OPEN if now.plan is None else RoundStatus.FUSING,
            participation=status,
            participation_reason=now.excluded,
            accepted_sha256=own.manifest.update_sha256 if own else None,
            is_initialiser=now.number == 0,
            start=self._file(now.start),
            initial=self._file(self.initial),
            announced=tuple(
                Announced(
                    node_id=node, update_sha256=one.manifest.update_sha256, update_bytes=one.manifest.update_bytes
                )
                for node, one in now.updates.items()
                if now.plan is None and (not self.fusers or AGENT in self.fusers)
            ),
            plan=now.plan,
            fused=self._file(now.fused),
            redo_fusion=now.redo,
            republish=self.republish,
            keep=self.keep,
            release_before=self.release_before,
        )

    def _file(self, file: FusedFile | None) -> FusedFile | None:
        if file is None:
            return None
        holders = self.peers if self.on_hub else ()
        there = [node for node in holders if self._on_hub(tensor_path(node, file.file_sha256)).exists()]
        return file.model_copy(update={"on_hub": tuple(there)})

    def _announce(self, body: dict[str, Any]) -> httpx.Response:
        signed = SignedManifest.model_validate(body["signed"])
        verify_by_any(signed, (self.agent_key, *self.earlier.get(AGENT, ())))
        now, known = self.round, self.round.updates.get(AGENT)
        if signed.manifest.round_number != now.number:
            return problem(409, "round_over")
        accepted = known.manifest.update_sha256 if known else None
        if accepted not in (None, signed.manifest.update_sha256):
            return problem(409, "already_announced", accepted_sha256=accepted)
        if known is None and now.plan is not None:
            now.excluded = "late"
            return httpx.Response(200, json={"participation": "excluded", "reason": "late", "accepted_sha256": None})
        now.updates.setdefault(AGENT, signed)
        self.republish = tuple(sha for sha in self.republish if sha != signed.manifest.update_sha256)
        self._advance()
        self._bump()
        return httpx.Response(
            200, json={"participation": "announced", "accepted_sha256": signed.manifest.update_sha256}
        )

    def _fusion(self, body: dict[str, Any]) -> httpx.Response:
        now = self.round
        if now.plan is None or body["plan_version"] != now.plan.version:
            return problem(409, "plan_superseded")
        now.reports.append(body)
        self._advance()
        self._bump()
        return httpx.Response(204)

    # --- rounds and peers ---------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        now = self.round
        if self.run_status is not RunStatus.RUNNING or self.finished or not self.assigned:
            return
        if self.peers_announce and now.number > 0:
            for peer in self.peers:
                if peer not in now.updates:
                    now.updates[peer] = self._peer_update(peer)
        everyone = {AGENT} if now.number == 0 else {AGENT, *self.peers}
        if self.freezes and now.plan is None and everyone <= set(now.updates):
            self._freeze(1)
        if any(self._is_final(report) for report in now.reports):
            self._complete()

    def _is_final(self, report: dict[str, Any]) -> bool:
        plan = self.round.plan
        right = plan and report["plan_version"] == plan.version and report["attempt"] == self.round.redo
        return bool(right and report["validation"] is not None)

    def _peer_update(self, peer: str) -> SignedManifest:
        number = self.round.number
        if self.fused is Fused.NONE:
            manifest = UpdateManifest(
                run_id=RUN, round_number=number, node_id=peer, update_sha256=EMPTY, update_bytes=0, tensors=(),
                start_digest=None, num_cases=10,
                metrics=UpdateMetrics(validation_auc=0.5, shared_epoch=1, num_steps=1),
            )  # fmt: skip
            return sign(manifest, self.keys[peer])
        value = float(number + self.peers.index(peer))
        tensors: dict[str, np.ndarray] = {"weight": np.full(4, value, np.float32)}
        if self.config.method.name != "fedbn":
            tensors["counter"] = np.array(number, np.int64)
        return self.put(peer, tensors, number)

    @property
    def fused(self) -> Fused:
        return Fused.COMMON if self.round.number == 0 else method_facts(self.config.method.name).fused

    def _freeze(self, version: int) -> None:
        updates = sorted(self.round.updates.items())
        entries = tuple(
            PlanEntry(
                node_id=node,
                update_sha256=one.manifest.update_sha256,
                update_bytes=one.manifest.update_bytes,
                manifest_sha256=one.sha256,
                weight=1.0 / len(updates),
                num_cases=one.manifest.num_cases,
            )
            for node, one in updates
        )
        fusers = self.fusers if self.round.number else ()
        plan = FusionPlan(run_id=RUN, round_number=self.round.number, version=version, entries=entries, fusers=fusers)
        self.round.plan = plan
        self.round.fused = self._fuse_at_peer(plan) if self.agree and not plan.is_fused_by(AGENT) else None

    def _complete(self) -> None:
        now = self.round
        assert now.plan is not None
        if self.fused is Fused.COMMON:
            file = self._fuse_at_peer(now.plan)
            self.history[now.number] = file.fused_digest
            if now.number == 0:
                self.initial = file
            following = file
        else:
            self.history[now.number] = inputs_digest(now.plan.entries)
            following = self.initial
        if now.number >= self.config.num_rounds:
            self.finished = True
            return
        self.round = Round(now.number + 1, following)
        if not self.next_token_hash:  # what rotated is in use: from now on only new keys sign
            self.earlier = {}
        self._advance()

    def _fuse_at_peer(self, plan: FusionPlan) -> FusedFile:
        """What the other members get, and put on the hub."""
        inputs = [
            FusionInput(one.node_id, self._on_hub(tensor_path(one.node_id, one.update_sha256)), one.weight)
            for one in plan.entries
        ]
        made = fuse(inputs, self.work / "fused.safetensors")
        self._on_hub(tensor_path(PEER, made.file_sha256)).write_bytes((self.work / "fused.safetensors").read_bytes())
        return FusedFile(
            round_number=plan.round_number,
            fused_digest=made.fused_digest,
            file_sha256=made.file_sha256,
            file_bytes=made.num_bytes,
        )


def until(changed: threading.Condition, condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether `condition` came true: looked at after every change, and now and then for what changes silently."""
    clock = SystemClock()
    end_s = clock.monotonic() + timeout_s
    with changed:
        while not condition():
            if clock.monotonic() > end_s:
                return False
            changed.wait(0.05)
    return True


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def answer(message: Any) -> httpx.Response:
    return httpx.Response(200, content=message.model_dump_json(), headers={"Content-Type": "application/json"})


def problem(status: int, code: str, **data: Any) -> httpx.Response:
    body = {"type": f"urn:x:{code}", "title": code, "status": status, "detail": f"Because of {code}.", "code": code}
    return httpx.Response(status, json={**body, "data": data})
