"""Quorum: what a deadline may go on without. Computed from the nodes at hand, never stored."""

from collections.abc import Collection

from hsl_model.protocol.config import QuorumConfig


def lacking(quorum: QuorumConfig, nodes: Collection[str], num_cases: int | None = None) -> str | None:
    """What is missing for the quorum, as words for a sentence; None when it holds.

    `num_cases` are the training cases of these nodes together; None where nobody has cases yet (round 0) or the
    question is only who is there.
    """
    parts = []
    if len(nodes) < quorum.min_nodes:
        parts.append(f"{len(nodes)} of at least {quorum.min_nodes} nodes")
    if num_cases is not None and num_cases < quorum.min_cases:
        parts.append(f"{num_cases} of at least {quorum.min_cases} training cases")
    if absent := [node for node in quorum.required_nodes if node not in nodes]:
        parts.append(f"the required {', '.join(absent)} missing")
    return " and ".join(parts) or None
