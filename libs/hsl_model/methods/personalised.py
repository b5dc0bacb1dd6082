"""Personalised learning as the authors of HSL define it (methods.md 4.4): every node keeps a mixture of its own.

    w_i <- a w_i + (1 - a) mean_{j != i} w_j,  a = own_share = 1/2

For two nodes and a = 1/2 this is the equal-weight average. On the mmoe network the SAT is trained as in HSL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hsl_model.averaging import FusedFacts, FusionInput, fuse
from hsl_model.methods.base import Method
from hsl_model.protocol.messages import FusionPlan


@dataclass(frozen=True)
class Personalised(Method):
    own_share: float = 0.5

    def fuse(self, node_id: str, plan: FusionPlan, files: Mapping[str, Path], output: Path) -> FusedFacts:
        """A node whose update is not in the plan still mixes in its own where `files` has it. Alone, it keeps its own;
        without one of its own, it takes the others' mean."""
        others = [entry.node_id for entry in plan.entries if entry.node_id != node_id]
        if not others:
            return fuse([FusionInput(node_id, files[node_id], 1.0)], output)
        own_share = self.own_share if node_id in files else 0.0
        inputs = [FusionInput(other, files[other], (1.0 - own_share) / len(others)) for other in others]
        if node_id in files:
            inputs.append(FusionInput(node_id, files[node_id], own_share))
        return fuse(inputs, output)
