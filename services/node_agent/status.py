"""What the site's admin is shown: where this node stands, said in one sentence, and what there is to answer."""

from datetime import datetime

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import Message, RunConfig, TaskConfig
from hsl_model.protocol.messages import Progress, TruthCounts
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused, NodePhase
from node_agent.consents import Answer, Consent
from node_agent.journal import PhaseRow
from node_agent.mailbox import Mailbox


class HeldKey(Message):
    """A changed key that waits for the admin's yes: of a node, or of the `hub`. With fingerprints."""

    name: str
    known: str
    offered: str
    sentence: str


class PeerKey(Message):
    """The signing key that is believed of a node. `how`: first, rotated, admin."""

    node_id: str
    key: str
    since: datetime
    how: str


class SiteStatus(Message):
    node_id: str
    alliance: str
    agent_version: str
    boot_number: int
    phase: NodePhase
    since: datetime
    run_id: str | None
    round_number: int | None
    explanation: str
    progress: Progress | None
    paused_by_site: bool
    attempt: int
    retry_in_s: float | None
    failure_code: str | None
    coordinator_reachable: bool
    coordinator_last_answer_s: float | None  # seconds since
    coordinator_failure: str | None
    trainer_pid: int | None
    egress_head: str
    held_keys: tuple[HeldKey, ...] = ()
    peer_keys: tuple[PeerKey, ...] = ()
    rotation: str | None = None


class RunSummary(Message):
    """One page for the admin's decision: what is learned, how, from what, and what leaves the house."""

    run_id: str
    name: str | None
    task: TaskConfig | None
    method: str | None
    method_summary: str | None
    num_rounds: int | None
    nodes: tuple[str, ...]
    what_leaves: tuple[str, ...]
    counts: TruthCounts | None
    report: str | None
    answer: Answer | None
    told: bool
    problem: str | None
    explanation: str


_DOING = {
    NodePhase.IDLE: "Nothing to do now.",
    NodePhase.TRAINING: "Training on this site's images.",
    NodePhase.CHECKPOINTING: "Signing this site's update.",
    NodePhase.UPLOADING: "Uploading this site's update to the hub.",
    NodePhase.ANNOUNCING: "Announcing this site's update.",
    NodePhase.WAITING: "Waiting for the round's fusion plan.",
    NodePhase.DOWNLOADING: "Downloading the other sites' updates.",
    NodePhase.VERIFYING: "Verifying the other sites' updates.",
    NodePhase.FUSING: "Fusing the updates of the plan.",
    NodePhase.ADOPTING: "Validating the fused model.",
    NodePhase.FAILED: "This round failed here.",
}


def explain(row: PhaseRow, mailbox: Mailbox) -> str:
    """One sentence: what it does or waits for, what went wrong, and who must act."""
    if mailbox.revoked:
        return "This node was revoked by the alliance's coordinator; ask there."
    if row.phase is NodePhase.FAILED and row.failure is not None:
        return f"{row.failure.sentence} When that is put right: `hsl node retry`."
    if row.retry_at is not None and row.failure is not None:
        return f"{row.failure.sentence} Try {row.attempt + 1} follows by itself."
    if row.phase is NodePhase.IDLE and mailbox.contact_failure is not None:
        return mailbox.contact_failure.sentence
    return mailbox.waiting or _DOING[row.phase]


def retry_in_s(row: PhaseRow, clock: Clock) -> float | None:
    return None if row.retry_at is None else max(0.0, (row.retry_at - clock.now()).total_seconds())


def summarise(consent: Consent, config: RunConfig | None) -> RunSummary:
    """`config` is known while the invitation is open, and while the run is this node's work."""
    facts = method_facts(config.method.name) if config else None
    return RunSummary(
        run_id=consent.run_id,
        name=config.name if config else None,
        task=config.task if config else None,
        method=config.method.name if config else None,
        method_summary=facts.summary if facts else None,
        num_rounds=config.num_rounds if config else None,
        nodes=config.nodes if config else (),
        what_leaves=_what_leaves(facts.fused if facts else Fused.COMMON),
        counts=consent.counts,
        report=consent.report,
        answer=consent.answer,
        told=consent.told,
        problem=consent.problem,
        explanation=_explain_consent(consent),
    )


def _what_leaves(fused: Fused) -> tuple[str, ...]:
    weights = (
        "every round: the network's weights after training here; every member can read them"
        if fused is not Fused.NONE
        else "no weights but the common initial ones"
    )
    return (
        "once: how many images of each class you have for training, validation and test, and how many are not usable",
        weights,
        "every round: number of training cases, losses, validation AUC, times and bytes",
        "never: an image, a pixel statistic, a file name, a patient identifier",
    )


def _explain_consent(consent: Consent) -> str:
    if consent.problem is not None:
        return f"{consent.problem} Then answer again."
    if consent.answer is Answer.WITHDRAW:
        return "Withdrawn." if consent.told else "Withdrawing; the coordinator has not confirmed it yet."
    if consent.answer is Answer.ACCEPT:
        if consent.told:
            return "Accepted: this site is a member."
        waits = "this site's images are being looked at" if consent.counts is None else "the coordinator is being told"
        return f"Accepted; {waits}."
    if consent.counts is None:
        return f"Invited. Bind data to task {consent.task_id} with `hsl node bind`, then accept."
    return f"Invited. Accept with `hsl node accept {consent.run_id}`."
