"""Runs, rounds and nodes as tables."""

from collections.abc import Sequence

from rich.table import Table

from hsl_cli.output import bytes_of, facts, num_bytes, seconds, table, text
from hsl_model.protocol.messages import FusionPlan, Progress
from hsl_model.protocol.states import NodeHealth, ParticipationStatus
from hsl_model.protocol.views import NodeView, RoundView, RunView


def run_facts(run: RunView) -> Table:
    task = run.config.task
    newest = "-" if run.round_number is None else run.round_number
    return facts(
        (
            ("run", f"{run.run_id} ({run.name})"),
            ("status", run.status),
            ("reason", run.reason),
            ("waiting for", run.waiting),
            ("round", f"{newest} of {run.num_rounds}"),
            ("best round", None if run.best_round is None else f"{run.best_round}, mean AUC {text(run.best_mean_auc)}"),
            ("task", f"{task.task_id}: {task.positive_class} against {task.negative_class}, {task.modality}"),
            ("images", f"{task.height} x {task.width} pixels, channels: {task.channels}"),
            ("method", f"{run.config.method.name}, {run.config.network.encoder} encoder"),
            ("fusers", run.config.fusers),
        )
    )


def members_table(run: RunView) -> Table:
    rows = []
    for member in run.members:
        counts = member.counts
        training = counts and f"{counts.training.positive} + {counts.training.negative}"
        validation = counts and f"{counts.validation.positive} + {counts.validation.negative}"
        rows.append((member.node_id, member.status, training, validation))
    return table("Members", ("node", "membership", "training (pos + neg)", "validation (pos + neg)"), rows)


def rounds_table(rounds: Sequence[RoundView]) -> Table:
    columns = ("round", "status", "members fused", "fusers", "excluded", "mean AUC", "fused digest", "waiting for")
    rows = []
    for found in rounds:
        statuses = [one.status for one in found.participations]
        excluded = [one for one in found.participations if one.status is ParticipationStatus.EXCLUDED]
        rows.append(
            (
                found.round_number,
                found.status,
                f"{statuses.count(ParticipationStatus.FUSED)} of {len(statuses)}",
                fusers(found.plan),
                ", ".join(f"{one.node_id} ({one.reason})" for one in excluded) or None,
                found.mean_auc,
                short(found.fused_digest),
                found.waiting or found.reason or one_answer(found),
            )
        )
    return table("Rounds", columns, rows)


def one_answer(found: RoundView) -> str | None:
    """ "site-1, site-2: every image gets one answer": a model whose training collapsed."""
    told = [one.node_id for one in found.participations if one.validation and one.validation.one_answer]
    return f"{', '.join(told)}: every image gets one answer" if told else None


def fusers(plan: FusionPlan | None) -> str | None:
    """ "site-1, site-3; audit site-2; replaced site-4", or "all"."""
    if plan is None:
        return None
    said = ", ".join(plan.fusers) + f"; audit {plan.audit}" if plan.fusers else "all"
    return said + (f"; replaced {', '.join(plan.replaced)}" if plan.replaced else "")


def work_table(newest: RoundView) -> Table:
    """What each member does in the newest round, by its last heartbeat."""
    rows = [
        (one.node_id, one.status, one.phase and one.phase.value, progress(one.progress), one.reason)
        for one in newest.participations
    ]
    return table(f"Round {newest.round_number} now", ("node", "status", "phase", "progress", "reason"), rows)


def nodes_table(nodes: Sequence[NodeView]) -> Table:
    columns = ("node", "status", "health", "phase", "progress", "waiting for")
    rows = [
        (node.node_id, node.status, health(node), phase(node), progress(node.progress), node.failure or node.waiting)
        for node in nodes
    ]
    return table(None, columns, rows)


def node_facts(node: NodeView) -> Table:
    return facts(
        (
            ("node", f"{node.node_id} ({node.display_name})"),
            ("status", node.status),
            ("health", health(node)),
            ("last contact", None if node.last_seen_s is None else f"{seconds(node.last_seen_s)} ago"),
            ("phase", phase(node)),
            ("progress", progress(node.progress)),
            ("waiting for", node.waiting),
            ("failure", node.failure),
            ("second agent", "refused; let it in with `hsl nodes release`" if node.duplicate_instance else None),
            ("boots", node.boot_number),
            ("signing key", node.signing_public_key),
            ("enrolled", node.enrolled_at),
            ("revoked", node.revoked_at),
        )
    )


def health(node: NodeView) -> str:
    if node.health in (NodeHealth.LATE, NodeHealth.LOST) and node.last_seen_s is not None:
        return f"{node.health.value} (silent for {seconds(node.last_seen_s)})"
    return node.health.value.replace("_", " ")


def phase(node: NodeView) -> str | None:
    if node.phase is None:
        return None
    suffix = "" if node.round_number is None else f", round {node.round_number}"
    return f"{node.phase.value}{suffix}" + (" (paused by its site)" if node.paused_by_site else "")


def progress(made: Progress | None) -> str | None:
    """ "41 of 95 MB, 3.2 MB/s, attempt 2"."""
    if made is None:
        return None
    rate = None
    if made.unit == "bytes":
        done = num_bytes(made.done) if made.total is None else bytes_of(made.done, made.total)
        rate = None if made.rate_per_s is None else f"{num_bytes(round(made.rate_per_s))}/s"
    else:
        done = f"{made.done} {made.unit}" if made.total is None else f"{made.done} of {made.total} {made.unit}"
    return ", ".join(part for part in (done, rate, f"attempt {made.attempt}" if made.attempt > 1 else None) if part)


def short(digest: str | None) -> str | None:
    """The first 12 of 64 hex digits: enough for people to compare."""
    return None if digest is None else digest[:12]
