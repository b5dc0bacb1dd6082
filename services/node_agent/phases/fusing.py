"""FUSING and ADOPTING: every node computes the same model from the same plan, reports its digest, and validates it.

Or the plan names fusers: they publish what they computed, and the others take it over.
"""

import shutil

from hsl_model.averaging import FusionInput, fuse, inputs_digest
from hsl_model.checkpoint import FileFacts
from hsl_model.durable import check_room
from hsl_model.protocol.messages import FusionReport, PublishedReport
from hsl_model.protocol.states import Fused, NodePhase
from node_agent.context import Context
from node_agent.egress import check_declared
from node_agent.facts import FusedModel, RoundFacts
from node_agent.model_card import write_model_card
from node_agent.phases.models import adopted_files, file_facts
from node_agent.phases.records import keep_record
from node_agent.store import FileKind
from node_agent.trainer import messages as m


def fusing(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """Common models are fused here, in numpy; a method with a fusion of its own does it in the child."""
    fetched = facts.planned.fetched if facts.planned else None
    if fetched is not None:
        fused = _fused_model(facts, fetched.fused_digest, fetched.file_sha256, fetched.file_bytes)
    else:
        fused = _FUSIONS[facts.fused_kind](context, facts)
    facts = facts.model_copy(update={"fused": fused, "validation": None})
    context.client.report_fusion(facts.run_id, facts.round_number, _report(context, facts))
    if context.node_id in facts.plan.fusers:
        _publish(context, facts, fused)
    return NodePhase.ADOPTING, facts


def _publish(context: Context, facts: RoundFacts, fused: FusedModel) -> None:
    """Reported first, so that the coordinator knows the file and will release it, whatever becomes of this plan."""
    if fused.model_sha256 is None or fused.model_bytes is None:
        raise LookupError("a method without a common model has no fusers")
    path = context.store.path(fused.model_sha256)
    check_declared(path, facts.expected or ())
    check_room(path.parent, 0)  # what leaves must be noted, before and after
    context.hub.get().put_tensors(path, context.node_id, fused.model_sha256, context.watch())
    context.meter.bytes_up += fused.model_bytes
    context.client.published(
        PublishedReport(run_id=facts.run_id, file_sha256=fused.model_sha256, file_bytes=fused.model_bytes)
    )


def _fuse_common(context: Context, facts: RoundFacts) -> FusedModel:
    """The daemon needs to know nothing of the method: names, weights and order stand in the plan."""
    output = context.settings.round_folder(facts.run_id, facts.round_number) / "fused.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    inputs = [
        FusionInput(entry.node_id, context.store.path(entry.update_sha256), entry.weight)
        for entry in facts.plan.entries
    ]
    made = fuse(inputs, output, facts.expected)
    kind = FileKind.INITIAL if facts.round_number == 0 else FileKind.FUSED
    file = FileFacts(output, made.file_sha256, made.num_bytes)
    context.store.take(file, facts.run_id, facts.round_number, kind)
    return _fused_model(facts, made.fused_digest, made.file_sha256, made.num_bytes)


def _fuse_own(context: Context, facts: RoundFacts) -> FusedModel:
    """A mixture of this node's own: what is compared is which updates went in, not what came out."""
    output = context.settings.round_folder(facts.run_id, facts.round_number) / "own.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {entry.node_id: context.store.path(entry.update_sha256) for entry in facts.plan.entries}
    if facts.update is not None and context.store.is_intact(facts.update.sha256):
        files.setdefault(context.node_id, context.store.path(facts.update.sha256))
    request = m.FuseOwn(work=context.work(facts, ()), plan=facts.plan, files=files, output=output)
    made = context.trainer(facts.run_id).ask(request, m.Fused, keep_going=context.may_finish).model
    context.store.take(file_facts(made), facts.run_id, facts.round_number, FileKind.OWN)
    return _fused_model(facts, inputs_digest(facts.plan.entries), made.sha256, made.num_bytes)


def _fuse_none(context: Context, facts: RoundFacts) -> FusedModel:
    del context
    return _fused_model(facts, inputs_digest(facts.plan.entries), None, None)


_FUSIONS = {Fused.COMMON: _fuse_common, Fused.OWN: _fuse_own, Fused.NONE: _fuse_none}


def _fused_model(facts: RoundFacts, digest: str, sha256: str | None, num_bytes: int | None) -> FusedModel:
    return FusedModel(
        plan_version=facts.plan.version,
        redo=facts.planned.redo if facts.planned else 0,
        digest=digest,
        model_sha256=sha256,
        model_bytes=num_bytes,
    )


def adopting(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """Validate the model the next round begins with, keep it, and report. Validated once, reported until heard.

    Kept first: with the last report the run may be over, and a node that starts again then adopts nothing any more.
    """
    files = adopted_files(context, facts)
    if facts.validation is None:
        request = m.Validate(work=context.work(facts, files))
        reply = context.trainer(facts.run_id).ask(request, m.Validated, keep_going=context.may_finish)
        return NodePhase.ADOPTING, facts.model_copy(update={"validation": reply.metrics})
    report = _report(context, facts)
    write_model_card(context.settings, context.node_id, facts, files)
    keep_record(context, facts, report)
    context.client.report_fusion(facts.run_id, facts.round_number, report)
    shutil.rmtree(context.settings.round_folder(facts.run_id, facts.round_number), ignore_errors=True)
    return NodePhase.IDLE, facts


def _report(context: Context, facts: RoundFacts) -> FusionReport:
    fused = facts.fused
    if fused is None:
        raise LookupError("nothing fused yet")
    is_common = facts.fused_kind is Fused.COMMON
    return FusionReport(
        plan_version=fused.plan_version,
        fused_digest=fused.digest,
        file_sha256=fused.model_sha256 if is_common else None,
        file_bytes=fused.model_bytes if is_common else None,
        attempt=fused.redo,
        validation=facts.validation,
        costs=context.costs(facts),
    )
