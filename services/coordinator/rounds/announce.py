"""Announcing an update: one for each node and round, the first accepted one counts (rules 3 and 13)."""

import hashlib
from collections.abc import Sequence

from coordinator.kit.problems import NotFoundError
from coordinator.nodes.keys import signing_keys
from coordinator.rounds import repository
from coordinator.rounds.errors import (
    AlreadyAnnouncedError,
    RoundOverError,
    RoundUnknownError,
    UpdateRefusedError,
)
from coordinator.rounds.facts import ACCEPTED
from coordinator.rounds.moves import Act, move_members
from coordinator.tables import NodeRow, ParticipationRow, RoundRow
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.manifest import SignedManifest, TensorSpec, UpdateManifest, verify_by_any
from hsl_model.protocol.messages import AnnounceReply
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, ParticipationStatus, RoundStatus

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def announce(act: Act, node: NodeRow, run_id: str, round_number: int, signed: SignedManifest) -> AnnounceReply:
    """Accept an update, or give the answer it was given before. Refuses what must not be fused, with a reason."""
    newest = repository.lock_round(act.session, run_id, round_number)
    if newest is None:
        raise NotFoundError(what="round", name=f"{run_id}/{round_number}")
    manifest = _verified(node, newest, signed)
    row = act.session.get(ParticipationRow, (run_id, round_number, node.node_id), populate_existing=True)
    if row is None:
        raise RoundUnknownError(node_id=node.node_id, run_id=run_id, round_number=round_number)
    if row.update_sha256 is not None:
        return _again(act, newest, row, manifest)
    if row.status == ParticipationStatus.EXCLUDED:
        return _reply(row)
    if newest.status == RoundStatus.FUSING:
        return _too_late(act, newest, row)
    if newest.status != RoundStatus.OPEN:
        raise RoundOverError(run_id=run_id, round_number=round_number, status=newest.status)
    _check(act, newest, manifest)
    accept(act, row, signed)
    return _reply(row)


def _verified(node: NodeRow, newest: RoundRow, signed: SignedManifest) -> UpdateManifest:
    manifest = verify_by_any(signed, signing_keys(node, newest.opened_at))
    found = (manifest.node_id, manifest.run_id, manifest.round_number)
    if found != (node.node_id, newest.run_id, newest.round_number):
        raise ManifestError(reason=f"it speaks of {'/'.join(map(str, found))}, not of this node, run and round")
    return manifest


def _again(act: Act, newest: RoundRow, row: ParticipationRow, manifest: UpdateManifest) -> AnnounceReply:
    if manifest.update_sha256 != row.update_sha256:
        raise AlreadyAnnouncedError(accepted_sha256=row.update_sha256, round_number=row.round_number)
    if row.republish_since is not None:  # the owner was asked to publish it again, and has
        row.republish_since = None
        repository.forget_missing(act.session, newest, row.node_id)
        act.note("update.republished", row.run_id, row.round_number, row.node_id, update_sha256=row.update_sha256)
        act.session.flush()
    return _reply(row)


def _too_late(act: Act, newest: RoundRow, row: ParticipationRow) -> AnnounceReply:
    """The plan froze without it. In round 0 another member was faster, and this one fuses those initial weights."""
    if newest.round_number > 0:
        move_members(act, [row], ParticipationStatus.EXCLUDED, "late")
    return AnnounceReply(participation=ParticipationStatus(row.status), reason="late", accepted_sha256=None)


def _reply(row: ParticipationRow) -> AnnounceReply:
    """The same for an update that was accepted, however far the round has come since."""
    status = ParticipationStatus(row.status)
    if status in ACCEPTED:
        status = ParticipationStatus.ANNOUNCED
    return AnnounceReply(participation=status, reason=row.reason, accepted_sha256=row.update_sha256)


def accept(act: Act, row: ParticipationRow, signed: SignedManifest) -> None:
    """Its manifest was checked before."""
    if row.status == ParticipationStatus.FAILED:  # its site has retried, and no heartbeat said so yet
        move_members(act, [row], ParticipationStatus.ASSIGNED)
    manifest = signed.manifest
    move_members(
        act,
        [row],
        ParticipationStatus.ANNOUNCED,
        update_sha256=manifest.update_sha256,
        update_bytes=manifest.update_bytes,
        num_cases=manifest.num_cases,
        num_steps=manifest.metrics.num_steps,
        manifest=signed.model_dump(mode="json"),
        manifest_sha256=signed.sha256,
        announced_at=act.now,
    )


def _check(act: Act, newest: RoundRow, manifest: UpdateManifest) -> None:
    """Raise `UpdateRefusedError` for an empty, unchanged, stale or differently shaped update."""
    config = repository.config_of(act.session, newest.run_id)
    refuse = _Refusal(manifest)
    if newest.round_number == 0:
        _check_initial(config, manifest, refuse)
        return
    if manifest.num_cases == 0:
        raise refuse("no_cases", "it was trained on no case; check the site's binding and truth report")
    kind = method_facts(config.method.name).fused
    if kind is Fused.NONE:
        if manifest.tensors or manifest.update_bytes or manifest.update_sha256 != EMPTY_SHA256:
            raise refuse("tensors", f"method {config.method.name} exchanges nothing, so the update must be empty")
        return
    if kind is Fused.COMMON:
        _check_start(act, newest, manifest, refuse)
    _check_tensors(act, newest, manifest, refuse)


class _Refusal:
    def __init__(self, manifest: UpdateManifest) -> None:
        self._data = {"node_id": manifest.node_id, "round_number": manifest.round_number}

    def __call__(self, reason: str, explanation: str) -> UpdateRefusedError:
        return UpdateRefusedError(reason=reason, explanation=f"{explanation}.", **self._data)


def _check_initial(config: RunConfig, manifest: UpdateManifest, refuse: _Refusal) -> None:
    expected = config.initial.file_sha256
    if manifest.start_digest is not None:
        raise refuse("stale", "initial weights have no start digest")
    if not manifest.tensors or not manifest.update_bytes:
        raise refuse("empty", "it has no tensors")
    if expected is not None and manifest.update_sha256 != expected:
        raise refuse("initial", f"the run starts from file {expected}, not from {manifest.update_sha256}")


def _check_start(act: Act, newest: RoundRow, manifest: UpdateManifest, refuse: _Refusal) -> None:
    before = act.session.get(RoundRow, (newest.run_id, newest.round_number - 1))
    if before is None or manifest.start_digest != before.fused_digest:
        raise refuse(
            "stale",
            f"it was not trained from the fused model of round {newest.round_number - 1}; take that model from the "
            "desired state's start and train again",
        )
    if manifest.update_sha256 == before.fused_file_sha256:
        raise refuse("unchanged", "it is the model the round started from; training changed nothing")


def _check_tensors(act: Act, newest: RoundRow, manifest: UpdateManifest, refuse: _Refusal) -> None:
    """The first accepted update of a round sets names, shapes and dtypes; round 0 holds every tensor there is."""
    if not manifest.tensors or not manifest.update_bytes:
        raise refuse("empty", "it has no tensors")
    if (initial := repository.initial_manifest(act.session, newest.run_id)) is not None:
        known = {spec.name: spec for spec in initial.manifest.tensors}
        for spec in manifest.tensors:
            if known.get(spec.name) != spec:
                raise refuse("tensors", f"{_described(spec)} is not in the run's network")
    first = repository.first_accepted_manifest(act.session, newest.run_id, newest.round_number)
    expected = manifest.tensors if first is None else first.manifest.tensors
    owner = manifest.node_id if first is None else first.manifest.node_id
    if difference := _difference(manifest.tensors, expected):
        raise refuse("tensors", f"compared with the update of {owner}, {difference}")


def _difference(found: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> str | None:
    """The first tensor by which two updates differ, or one that is named twice."""
    names = [spec.name for spec in found]
    if len(set(names)) != len(names):
        return "a tensor is named twice"
    ours, theirs = {spec.name: spec for spec in found}, {spec.name: spec for spec in expected}
    for name in sorted(set(ours) | set(theirs)):
        if name not in ours:
            return f"{name} is missing"
        if name not in theirs:
            return f"{name} is one too many"
        if ours[name] != theirs[name]:
            return f"{_described(ours[name])} should be {_described(theirs[name])}"
    return None


def _described(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}{list(spec.shape)}"
