"""TRAINING: the child trains this round; the daemon waits, and stops it when something else is wanted."""

from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.facts import RoundFacts, UpdateFacts
from node_agent.model_card import write_start_card
from node_agent.phases.models import file_facts, start_files
from node_agent.store import FileKind
from node_agent.trainer.messages import Trained, TrainRound


def training(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts]:
    """A finished round in the workspace is handed back as it is, an unfinished one goes on from its snapshot."""
    start = start_files(context, facts)
    write_start_card(context.settings, context.node_id, facts, start)
    context.hub.drop()  # training takes long; a connection kept open meanwhile would be dead when it is needed
    workspace = context.settings.round_folder(facts.run_id, facts.round_number)
    trained = context.trainer(facts.run_id).ask(
        TrainRound(work=context.work(facts, start), workspace=workspace),
        Trained,
        keep_going=context.may_train,
        progress=context.steps,
        stall_s=context.settings.training_stall_s,
    )
    return NodePhase.CHECKPOINTING, facts.model_copy(update={"update": take_update(context, facts, trained)})


def take_update(context: Context, facts: RoundFacts, trained: Trained) -> UpdateFacts:
    """Put what the child made into the store: what will be published, and what stays here."""
    if trained.shared.num_bytes > 0:
        context.store.take(file_facts(trained.shared), facts.run_id, facts.round_number, FileKind.UPDATE)
    if trained.private is not None:
        context.store.take(file_facts(trained.private), facts.run_id, facts.round_number, FileKind.PRIVATE)
    return UpdateFacts(
        sha256=trained.shared.sha256,
        num_bytes=trained.shared.num_bytes,
        private_sha256=trained.private.sha256 if trained.private else None,
        metrics=trained.metrics,
        num_cases=trained.num_cases,
    )
