"""Fusion plans over tensor files of a single number."""

from pathlib import Path

import numpy as np

from hsl_model.checkpoint import read_tensors, write_tensors
from hsl_model.engine import fuse_own
from hsl_model.protocol.messages import FusionPlan, PlanEntry
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.weights import plan_weights
from tests.hsl_model.engine_helpers import run_config, spec_of


def fused_number(
    method: str,
    node_id: str,
    numbers: dict[str, float],
    folder: Path,
    *,
    num_cases: dict[str, int] | None = None,
    in_plan: set[str] | None = None,
    **options: float,
) -> tuple[float, str]:
    """What `node_id` holds after fusing the nodes' numbers, and the digest of its file."""
    planned = sorted(in_plan or set(numbers))
    cases = {node: (num_cases or {}).get(node, 1) for node in planned}
    weights = plan_weights(method_facts(method).weighting, cases)
    files, entries = {}, []
    for node, number in numbers.items():
        facts = write_tensors(folder / f"{node}.safetensors", {"w": np.array([number], dtype=np.float32)})
        files[node] = facts.path
        if node in planned:
            entries.append(
                PlanEntry(
                    node_id=node,
                    update_sha256=facts.sha256,
                    update_bytes=facts.num_bytes,
                    manifest_sha256=facts.sha256,
                    weight=weights[node],
                    num_cases=cases[node],
                )
            )
    plan = FusionPlan(run_id="run-tiny", round_number=1, version=1, entries=tuple(entries))
    output = folder / f"fused-{method}-{node_id}.safetensors"
    fused = fuse_own(spec_of(run_config(method, options=dict(options)), node_id=node_id), plan, files, output)
    return float(read_tensors(output)["w"][0]), fused.fused_digest
