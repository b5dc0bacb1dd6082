"""VERIFYING: nothing of a peer is believed until bytes, signature and content are what the frozen plan says."""

import hashlib

from hsl_model.checkpoint import TensorFile, check_specs, tensors_digest
from hsl_model.protocol.errors import CheckpointError, HslError, ManifestError
from hsl_model.protocol.manifest import UpdateManifest, parse_signed, verify_by_any
from hsl_model.protocol.messages import FusedFile, PlanEntry, RefusalKind, RefusalReport
from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.errors import NotYet
from node_agent.facts import PlanFacts, RoundFacts
from node_agent.phases.collecting import local_manifest, wait_for_trust
from node_agent.phases.models import expected_specs


def verifying(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """All updates of the plan are acceptable, or those that are not are reported and the next plan is waited for."""
    planned = facts.planned
    if planned is None or planned.refused:
        raise NotYet(f"{'; '.join(planned.refused) if planned else ''} The coordinator decides on the plan.")
    if not facts.exchanges_files:
        return NodePhase.FUSING, facts
    wait_for_trust(context, facts)
    facts = facts.model_copy(update={"expected": expected_specs(context, facts)})
    if planned.fetched is not None:
        return _verify_fetched(context, facts, planned, planned.fetched)
    if not _bytes_are_right(context, facts):
        return NodePhase.DOWNLOADING, facts
    refused = []
    for entry in facts.plan.entries:
        context.check()
        reason = _why_not(context, facts, entry)
        if reason is not None:
            context.store.distrust([entry.update_sha256])
            if not _bytes_are_right(context, facts):
                return NodePhase.DOWNLOADING, facts  # our disk spoilt what had come right; its owner is not to blame
            _refuse(context, facts, (entry.node_id, entry.update_sha256), reason)
            refused.append(f"The update of {entry.node_id} was refused here: {reason}")
    if refused:
        updated = planned.model_copy(update={"refused": tuple(refused)})
        return NodePhase.VERIFYING, facts.model_copy(update={"planned": updated})
    return NodePhase.FUSING, facts


def _verify_fetched(
    context: Context, facts: RoundFacts, planned: PlanFacts, file: FusedFile
) -> tuple[NodePhase, RoundFacts]:
    """The fusers are believed no more than anybody: their file is what they say it is, and a model of this run."""
    if not context.store.is_intact(file.file_sha256):
        context.store.discard(file.file_sha256)
        return NodePhase.DOWNLOADING, facts
    path = context.store.path(file.file_sha256)
    try:
        with TensorFile(path) as opened:
            check_specs(opened.specs, facts.expected or (), path)
            opened.check_finite()
            digest = tensors_digest((spec.name, opened.read(spec.name)) for spec in opened.specs)
    except CheckpointError as error:
        reason: str | None = _reason(error)
    else:
        reason = None if digest == file.fused_digest else f"its tensors have digest {digest}"
    if reason is None:
        return NodePhase.FUSING, facts
    _refuse(context, facts, (facts.plan.fusers[0], file.file_sha256), reason)
    updated = planned.model_copy(update={"refused": (f"The fused model was refused here: {reason}",)})
    return NodePhase.VERIFYING, facts.model_copy(update={"planned": updated})


def _bytes_are_right(context: Context, facts: RoundFacts) -> bool:
    """What lies on our own disk is what the plan names; wrong bytes are thrown away, to be downloaded again."""
    right = True
    for entry in facts.plan.entries:
        manifest = local_manifest(context, facts, entry)
        if not manifest.exists() or hashlib.sha256(manifest.read_bytes()).hexdigest() != entry.manifest_sha256:
            manifest.unlink(missing_ok=True)
            right = False
        if not context.store.is_intact(entry.update_sha256):
            context.store.discard(entry.update_sha256)
            right = False
    return right


def _why_not(context: Context, facts: RoundFacts, entry: PlanEntry) -> str | None:
    """None if the update may be fused, else the reason, fit for a report."""
    path = context.store.path(entry.update_sha256)
    try:
        if path.stat().st_size != entry.update_bytes:
            return f"it has {path.stat().st_size} bytes, the plan says {entry.update_bytes}"
        signed = parse_signed(local_manifest(context, facts, entry).read_bytes())
        manifest = verify_by_any(signed, _keys_of(context, facts, entry.node_id))
        if (difference := _differs(manifest, facts, entry)) is not None:
            return difference
        with TensorFile(path) as file:
            check_specs(file.specs, manifest.tensors, path)
            check_specs(file.specs, facts.expected or (), path)
            file.check_finite()
    except (CheckpointError, ManifestError) as error:
        return _reason(error)
    return None


def _keys_of(context: Context, facts: RoundFacts, node_id: str) -> tuple[str, ...]:
    entry = context.roster(facts).get(node_id)
    if entry is None:
        raise ManifestError(reason=f"{node_id} is not in the alliance's roster")
    if not (keys := context.peers.keys_of(entry)):
        raise NotYet(f"The signing key of {node_id} waits for this site's admin.")
    return keys


def _differs(manifest: UpdateManifest, facts: RoundFacts, entry: PlanEntry) -> str | None:
    says: dict[str, object] = {
        "run_id": facts.run_id,
        "round_number": facts.round_number,
        "node_id": entry.node_id,
        "update_sha256": entry.update_sha256,
        "update_bytes": entry.update_bytes,
        "num_cases": entry.num_cases,
    }
    for name, wanted in says.items():
        if getattr(manifest, name) != wanted:
            return f"its manifest says {name} {getattr(manifest, name)}, the plan says {wanted}"
    return None


def _reason(error: HslError) -> str:
    return str(error.data.get("reason") or error.sentence())


def _refuse(context: Context, facts: RoundFacts, file: tuple[str, str], reason: str) -> None:
    owner, sha256 = file
    report = RefusalReport(
        plan_version=facts.plan.version,
        owner=owner,
        update_sha256=sha256,
        kind=RefusalKind.CONTENT,
        reason=reason[:500],
    )
    context.client.refuse(facts.run_id, facts.round_number, report)
