"""WAITING and DOWNLOADING: the other nodes' updates come in, some before the plan is frozen, all once it is.

Where the plan names fusers and this node is none, one file comes in: what they fused, once they agree on it.
"""

from pathlib import Path

import structlog

from hsl_model.durable import write_bytes
from hsl_model.protocol.messages import Announced, PlanEntry, RefusalKind, RefusalReport
from hsl_model.protocol.paths import manifest_path
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.coordinator_client import CoordinatorError
from node_agent.errors import AgentError, NotYet
from node_agent.exchange.base import ExchangeError
from node_agent.facts import RoundFacts
from node_agent.phases.models import WRONG_OR_GONE, fetch
from node_agent.store import FileKind, KeptFile

logger = structlog.get_logger(__name__)


class UpdatesMissingError(AgentError):
    """Reported to the coordinator, which asks their owners to publish them again; tried again here meanwhile."""

    code = "updates_missing"
    kind = FailureKind.NOT_YET_THERE
    title = "Updates of the plan are missing"
    template = "The hub does not hold the announced update of {owners}; their sites were asked to publish it again."


def waiting(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """Until the plan is frozen, which `reconcile` sees. Meanwhile whatever peers announced is fetched already."""
    assignment, held = context.assignment(facts), context.held(facts)
    for announced in assignment.announced if assignment else ():
        if not context.may_train():  # the plan is there, or something else is wanted
            break
        if announced.node_id in held:
            continue
        _prefetch(context, facts, announced)
    context.mailbox.progress = None  # what has come so far is here; nothing moves now
    raise NotYet((assignment.waiting if assignment else None) or "The round's fusion plan is not frozen yet.")


def _prefetch(context: Context, facts: RoundFacts, announced: Announced) -> None:
    if announced.update_bytes == 0:
        return
    entry = (announced.node_id, announced.update_sha256, announced.update_bytes)
    try:
        _get_update(context, facts, *entry)
    except ExchangeError as error:
        if error.kind not in WRONG_OR_GONE:
            raise
        # No plan, so nothing to report yet; DOWNLOADING asks again and reports.
        logger.info("an announced update is not there yet", node_id=announced.node_id)


def downloading(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """Every update and manifest of the plan. What is missing or wrong is reported; nobody fuses a subset on his own."""
    wait_for_trust(context, facts)
    if not facts.plan.is_fused_by(context.node_id):
        return NodePhase.VERIFYING, _fetch_fused(context, facts)
    if facts.planned is not None and facts.planned.redo > 0:
        context.store.distrust([entry.update_sha256 for entry in facts.plan.entries])
    missing = [entry.node_id for entry in own_first(context, facts) if not _download_entry(context, facts, entry)]
    if missing:
        raise UpdatesMissingError(owners=", ".join(sorted(missing)))
    return NodePhase.VERIFYING, facts


def wait_for_trust(context: Context, facts: RoundFacts) -> None:
    """Nothing of a node whose key waits for the site's admin is fetched or fused, and nobody fuses the rest alone."""
    held = context.held(facts)
    if waits := [held[entry.node_id].sentence for entry in facts.plan.entries if entry.node_id in held]:
        raise NotYet(" ".join(waits))


def _fetch_fused(context: Context, facts: RoundFacts) -> RoundFacts:
    """Raises `NotYet` until the fusers agree. A holder with wrong bytes is named, and the next one asked."""
    assignment, planned = context.assignment(facts), facts.planned
    same_plan = assignment is not None and assignment.plan is not None and assignment.plan.version == facts.plan.version
    file = assignment.fused if assignment is not None and same_plan else None
    if file is None or planned is None:
        raise NotYet((assignment.waiting if assignment else None) or "The round's fusers are still at work.")
    if planned.redo > 0:
        context.store.distrust([file.file_sha256])

    def complain(owner: str, error: ExchangeError) -> None:
        try:
            _report_missing(context, facts, owner, file.file_sha256, error)
        except CoordinatorError as refused:
            if refused.kind is not FailureKind.NOT_YET_THERE:  # the round has gone on: the next holder will do
                raise

    fetch(context, facts, file, complain)
    return facts.model_copy(update={"planned": planned.model_copy(update={"fetched": file})})


def own_first(context: Context, facts: RoundFacts) -> list[PlanEntry]:
    """Each node starts with another peer, so that not all read the same file at once."""
    entries = list(facts.plan.entries)
    later = [entry for entry in entries if entry.node_id >= context.node_id]
    return later + entries[: len(entries) - len(later)]


def _download_entry(context: Context, facts: RoundFacts, entry: PlanEntry) -> bool:
    if entry.update_bytes == 0:
        return True  # a method that exchanges nothing
    context.check()
    try:
        _get_update(context, facts, entry.node_id, entry.update_sha256, entry.update_bytes)
        _get_manifest(context, facts, entry)
    except ExchangeError as error:
        once_more = error.kind is FailureKind.MISMATCH and context.row.attempt == 0  # damaged on the way, perhaps
        if error.kind not in WRONG_OR_GONE or once_more:
            raise
        if entry.node_id == context.node_id and not can_publish_again(context, facts, entry.update_sha256):
            report_lost(context, facts, entry.update_sha256)
        else:
            _report_missing(context, facts, entry.node_id, entry.update_sha256, error)
        return False
    return True


def can_publish_again(context: Context, facts: RoundFacts, sha256: str) -> bool:
    """Whether this node still has its update of the round, and the manifest it signed for it."""
    signed = facts.signed
    return signed is not None and signed.manifest.update_sha256 == sha256 and context.store.is_intact(sha256)


def report_lost(context: Context, facts: RoundFacts, sha256: str) -> None:
    """This node's own update, which the hub lost, is not here either: the others must not wait for it."""
    logger.warning("the update that the hub lost is not here either", sha256=sha256)
    _refuse(context, facts, context.node_id, sha256, RefusalKind.LOST, "its owner has no copy of it either")


def _report_missing(context: Context, facts: RoundFacts, owner: str, sha256: str, error: ExchangeError) -> None:
    _refuse(context, facts, owner, sha256, RefusalKind.MISSING, error.sentence()[:500])


def _refuse(context: Context, facts: RoundFacts, owner: str, sha256: str, kind: RefusalKind, reason: str) -> None:
    version = facts.plan.version
    report = RefusalReport(plan_version=version, owner=owner, update_sha256=sha256, kind=kind, reason=reason)
    context.client.refuse(facts.run_id, facts.round_number, report)


def _get_update(context: Context, facts: RoundFacts, node_id: str, sha256: str, num_bytes: int) -> None:
    store = context.store
    store.keep(KeptFile(sha256, facts.run_id, facts.round_number, FileKind.UPDATE, num_bytes))
    if store.is_intact(sha256):
        return
    store.discard(sha256)
    context.hub.get().get_tensors(node_id, sha256, num_bytes, store.path(sha256), context.watch())
    store.mark_checked(sha256)
    context.meter.bytes_down += num_bytes


def _get_manifest(context: Context, facts: RoundFacts, entry: PlanEntry) -> None:
    path = local_manifest(context, facts, entry)
    if path.exists():
        return
    remote = manifest_path(entry.node_id, facts.run_id, facts.round_number, entry.update_sha256)
    raw = context.hub.get().get_manifest(remote, entry.manifest_sha256)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(path, raw)
    context.meter.bytes_down += len(raw)


def local_manifest(context: Context, facts: RoundFacts, entry: PlanEntry) -> Path:
    folder = context.settings.round_folder(facts.run_id, facts.round_number)
    return folder / f"manifest.{entry.manifest_sha256}.json"
