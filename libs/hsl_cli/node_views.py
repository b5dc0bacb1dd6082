"""What a hospital's administrator reads: where the agent stands, what was offered, and what accepting would mean."""

from collections.abc import Sequence

from rich.table import Table

from hsl_cli.output import facts, seconds, table
from hsl_cli.run_tables import progress
from node_agent.status import RunSummary, SiteStatus

_HOW = {"rotated": "rotated; its earlier key signed that", "admin": "changed, and trusted by this site's admin"}


def status_facts(now: SiteStatus) -> Table:
    answered = now.coordinator_last_answer_s
    heard = "not yet" if answered is None else f"{seconds(answered)} ago"
    return facts(
        (
            ("node", f"{now.node_id} of {now.alliance} (agent {now.agent_version}, start {now.boot_number})"),
            ("phase", now.phase),
            ("run", now.run_id and f"{now.run_id}, round {now.round_number}"),
            ("now", now.explanation),
            ("progress", progress(now.progress)),
            ("paused here", "yes; go on with `hsl node resume`" if now.paused_by_site else None),
            ("next try", None if now.retry_in_s is None else f"in {seconds(now.retry_in_s)}"),
            ("failure", now.failure_code),
            ("coordinator", f"last answer {heard}"),
            ("trouble", None if now.coordinator_reachable else now.coordinator_failure),
            *(("WAITS FOR YOU" if index == 0 else "", key.sentence) for index, key in enumerate(now.held_keys)),
            *((f"key of {key.node_id}", f"{key.key}, {_HOW[key.how]}") for key in now.peer_keys if key.how in _HOW),
            ("own keys", now.rotation),
            ("egress head", now.egress_head),
        )
    )


def runs_table(runs: Sequence[RunSummary]) -> Table:
    rows = [(one.run_id, one.name, one.method, one.answer or "not answered", one.explanation) for one in runs]
    return table("Runs offered to this site", ("run", "name", "method", "answer", "now"), rows)


def summary_facts(run: RunSummary) -> Table:
    """The one page before the answer."""
    task, counts = run.task, run.counts
    lines: list[tuple[str, object]] = [("run", f"{run.run_id} ({run.name})")]
    if task is not None:
        lines += [
            ("learns", f"{task.positive_class} against {task.negative_class}, {task.modality}"),
            ("images", f"{task.height} x {task.width} pixels, channels: {task.channels}"),
        ]
    lines += [("method", f"{run.method}: {run.method_summary}"), ("rounds", run.num_rounds)]
    lines += [("with", ", ".join(run.nodes))]
    lines += [("leaves" if index == 0 else "", line) for index, line in enumerate(run.what_leaves)]
    if counts is not None:
        parts = (("training", counts.training), ("validation", counts.validation), ("test", counts.test))
        lines += [
            (f"your {name}", f"{part.positive} {task.positive_class if task else 'positive'}, {part.negative} others")
            for name, part in parts
        ]
        lines += [
            (
                "not usable",
                f"{counts.num_unreadable} unreadable, {counts.num_duplicates} copies, "
                f"{counts.num_conflicting} with conflicting labels",
            )
        ]
    lines += [("problem", run.problem)]
    return facts(lines)
