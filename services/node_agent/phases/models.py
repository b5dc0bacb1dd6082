"""Which files make up a model at this node, and how to get the one that is missing.

initial weights   <- private tensors of this node <- fused model            later files win
(round 0)            (what the method does not share)
"""

from collections.abc import Callable
from pathlib import Path

import structlog

from hsl_model.checkpoint import FileFacts
from hsl_model.protocol.manifest import TensorSpec
from hsl_model.protocol.messages import FusedFile
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import Fused
from node_agent.context import Context
from node_agent.errors import NotYet
from node_agent.exchange.base import ExchangeError
from node_agent.facts import RoundFacts
from node_agent.store import FileKind, KeptFile
from node_agent.trainer.messages import Describe, Described, MadeFile

logger = structlog.get_logger(__name__)

# What a hub that lost or damaged a file answers with: another node may still have it.
WRONG_OR_GONE = frozenset({FailureKind.NOT_YET_THERE, FailureKind.MISMATCH})


def start_files(context: Context, facts: RoundFacts) -> tuple[Path, ...]:
    """The model this round begins with. Raises `NotYet` while a part of it is on nobody's shelf."""
    fused = None
    if facts.fused_kind is Fused.COMMON and facts.start is not None:
        fused = fetch(context, facts, facts.start)
    elif facts.fused_kind is Fused.OWN:
        fused = _newest(context, facts, FileKind.OWN, facts.round_number)
    return _overlay(context, facts, fused, before_round=facts.round_number)


def adopted_files(context: Context, facts: RoundFacts) -> tuple[Path, ...]:
    """The model this node holds after the round: what the next round begins with, and what would be deployed."""
    digest = facts.fused.model_sha256 if facts.fused else None
    fused = context.store.path(digest) if digest is not None else None
    return _overlay(context, facts, fused, before_round=facts.round_number + 1)


def _overlay(context: Context, facts: RoundFacts, fused: Path | None, before_round: int) -> tuple[Path, ...]:
    initial = fetch(context, facts, facts.initial) if facts.initial is not None else None
    private = _newest(context, facts, FileKind.PRIVATE, before_round)
    return tuple(path for path in (initial if initial != fused else None, private, fused) if path is not None)


def _newest(context: Context, facts: RoundFacts, kind: FileKind, before_round: int) -> Path | None:
    found = context.store.newest(facts.run_id, kind, before_round)
    return None if found is None else context.store.path(found.sha256)


def fetch(
    context: Context, facts: RoundFacts, file: FusedFile, complain: Callable[[str, ExchangeError], None] | None = None
) -> Path:
    """A fused model of the ledger, from the store or from whoever has it on the hub. Its SHA-256 is the ledger's.

    `complain` hears in whose folder it was wrong or missing.
    """
    store, sha256 = context.store, file.file_sha256
    kind = FileKind.INITIAL if file.round_number == 0 else FileKind.FUSED
    store.keep(KeptFile(sha256, facts.run_id, file.round_number, kind, file.file_bytes))
    if store.is_intact(sha256):
        context.found(sha256)
        return store.path(sha256)
    store.discard(sha256)
    for node_id in _holders(context, facts, file):
        context.check()
        try:
            context.hub.get().get_tensors(node_id, sha256, file.file_bytes, store.path(sha256), context.watch())
        except ExchangeError as error:
            if error.kind not in WRONG_OR_GONE:
                raise
            logger.warning("a model is not where it should be", node_id=node_id, sha256=sha256, kind=error.kind)
            if complain is not None:
                complain(node_id, error)
            continue
        store.mark_checked(sha256)
        context.meter.bytes_down += file.file_bytes
        context.found(sha256)
        return store.path(sha256)
    context.ask_for(sha256)
    reason = f"The model of round {file.round_number} is not on the hub; a node that keeps it was asked for it."
    raise NotYet(reason, look_again=True)


def _holders(context: Context, facts: RoundFacts, file: FusedFile) -> tuple[str, ...]:
    """In whose folder the file lies by the newest word; this node's own folder first, it is as good as any."""
    assignment = context.assignment(facts)
    newest = (assignment.start, assignment.initial, assignment.fused) if assignment else ()
    known = next((found for found in newest if found and found.file_sha256 == file.file_sha256), file)
    return tuple(sorted(known.on_hub, key=lambda node_id: (node_id != context.node_id, node_id)))


def expected_specs(context: Context, facts: RoundFacts) -> tuple[TensorSpec, ...]:
    """The tensors an update of this round must have: a whole model in round 0, then what the method shares."""
    if facts.expected is not None:
        return facts.expected
    reply = context.trainer(facts.run_id).ask(Describe(config=facts.config), Described, keep_going=context.may_finish)
    return reply.full if facts.round_number == 0 else reply.shared


def file_facts(made: MadeFile) -> FileFacts:
    return FileFacts(made.path, made.sha256, made.num_bytes)
