"""CHECKPOINTING, UPLOADING, ANNOUNCING: the update gets its signed manifest, goes to the hub, and is announced."""

from hsl_model.checkpoint import TensorFile, check_specs
from hsl_model.durable import check_room
from hsl_model.protocol.manifest import TensorSpec, UpdateManifest, UpdateMetrics, sign
from hsl_model.protocol.messages import AnnounceReply
from hsl_model.protocol.paths import manifest_path
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase, ParticipationStatus
from node_agent.context import Context
from node_agent.coordinator_client import CoordinatorError
from node_agent.egress import check_declared
from node_agent.errors import InitialFileMissingError
from node_agent.exchange.base import ExchangeError, TransferWatch
from node_agent.facts import RoundFacts, UpdateFacts
from node_agent.phases.collecting import can_publish_again, report_lost
from node_agent.phases.models import expected_specs
from node_agent.phases.training import take_update
from node_agent.store import FileKind, KeptFile
from node_agent.trainer.messages import Initialise, Trained

Next = tuple[NodePhase, RoundFacts | None]


def checkpointing(context: Context, facts: RoundFacts) -> Next:
    """Say what the update is, and sign it. In round 0 the first member builds the run's initial weights here."""
    update = facts.update or _initial_update(context, facts)
    facts = facts.model_copy(update={"update": update, "expected": expected_specs(context, facts)})
    if update.num_bytes > 0 and not context.store.is_intact(update.sha256):
        return NodePhase.IDLE, None  # the disk lost it; the round is taken up again from the child's own copy
    manifest = UpdateManifest(
        run_id=facts.run_id,
        round_number=facts.round_number,
        node_id=context.node_id,
        update_sha256=update.sha256,
        update_bytes=update.num_bytes,
        tensors=_checked_specs(context, facts, update),
        start_digest=facts.start.fused_digest if facts.start else None,
        num_cases=update.num_cases,
        metrics=update.metrics,
        egress_head=context.ledger.head(),
    )
    signed = sign(manifest, context.identity.keys.signing)
    after = NodePhase.UPLOADING if update.num_bytes > 0 else NodePhase.ANNOUNCING
    return after, facts.model_copy(update={"signed": signed})


def _checked_specs(context: Context, facts: RoundFacts, update: UpdateFacts) -> tuple[TensorSpec, ...]:
    if update.num_bytes == 0:
        return ()
    path = context.store.path(update.sha256)
    with TensorFile(path) as file:
        check_specs(file.specs, facts.expected or (), path)
        return file.specs


def _initial_update(context: Context, facts: RoundFacts) -> UpdateFacts:
    """Round 0: from the run's seed, or the file the run names, which must lie in the store."""
    wanted = facts.config.initial.file_sha256
    if wanted is None:
        folder = context.settings.round_folder(facts.run_id, facts.round_number)
        request = Initialise(config=facts.config, folder=folder)
        made = context.trainer(facts.run_id).ask(request, Trained, keep_going=context.may_finish)
        return take_update(context, facts, made)
    path = context.store.path(wanted)
    if not context.store.is_intact(wanted):
        raise InitialFileMissingError(sha256=wanted, path=path)
    num_bytes = path.stat().st_size
    context.store.keep(KeptFile(wanted, facts.run_id, facts.round_number, FileKind.UPDATE, num_bytes))
    metrics = UpdateMetrics(validation_auc=None, shared_epoch=0, num_steps=0)
    return UpdateFacts(sha256=wanted, num_bytes=num_bytes, metrics=metrics, num_cases=0)


def uploading(context: Context, facts: RoundFacts) -> Next:
    """Tensors first, manifest last: a manifest on the hub speaks of a file that is complete."""
    if facts.update is None or facts.signed is None or not context.store.is_intact(facts.update.sha256):
        return NodePhase.IDLE, None
    upload_update(context, facts, context.watch())
    return NodePhase.ANNOUNCING, facts


def upload_update(context: Context, facts: RoundFacts, watch: TransferWatch) -> None:
    """Also when peers cannot find the update: everything already there is only looked at again."""
    if facts.signed is None:
        return
    manifest = facts.signed.manifest
    path = context.store.path(manifest.update_sha256)
    check_declared(path, facts.expected or ())
    check_room(path.parent, 0)  # what leaves must be noted, before and after
    hub = context.hub.get()
    try:
        hub.put_tensors(path, context.node_id, manifest.update_sha256, watch)
    except ExchangeError as error:
        if error.kind is FailureKind.MISMATCH:  # damaged on the way, or here since it was last read: read it again
            context.store.distrust([manifest.update_sha256])
        raise
    raw = facts.signed.to_bytes()
    hub.put_manifest(raw, manifest_path(context.node_id, facts.run_id, facts.round_number, manifest.update_sha256))
    context.meter.bytes_up += manifest.update_bytes + len(raw)


def publish_again(context: Context, sha256: str, watch: TransferWatch) -> None:
    """Peers cannot find this node's update: the row still speaks of its round, or the request is of the past.
    Announcing it again ends the request; so does saying that it is lost.

    A node that is still collecting looks for its own update on the hub too, and says then whether it is lost.
    """
    row = context.journal.current()
    facts = row.facts
    if facts is None or sha256 not in (facts.accepted_sha256, facts.update and facts.update.sha256):
        return
    if facts.signed is not None and can_publish_again(context, facts, sha256):
        upload_update(context, facts, watch)
        context.client.announce(facts.run_id, facts.round_number, facts.signed)
    elif facts.planned is not None:
        is_collecting = row.phase is not NodePhase.IDLE and facts.plan.is_fused_by(context.node_id)
        if not is_collecting:
            report_lost(context, facts, sha256)


def announcing(context: Context, facts: RoundFacts) -> Next:
    """The first accepted announce wins: where the coordinator knows another update of ours, we go on with that one."""
    if facts.signed is None:
        return NodePhase.IDLE, None
    try:
        reply = context.client.announce(facts.run_id, facts.round_number, facts.signed)
    except CoordinatorError as error:
        accepted = error.details.get("accepted_sha256")
        if error.problem_code != "already_announced" or not isinstance(accepted, str):
            raise
        return NodePhase.WAITING, facts.model_copy(update={"accepted_sha256": accepted, "signed": None})
    return NodePhase.WAITING, _announced(facts, reply)


def _announced(facts: RoundFacts, reply: AnnounceReply) -> RoundFacts:
    excluded = reply.participation is ParticipationStatus.EXCLUDED
    left_out = (reply.reason or "excluded") if excluded else None
    return facts.model_copy(update={"accepted_sha256": reply.accepted_sha256, "left_out": left_out})
