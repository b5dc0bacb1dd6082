"""HeteroSync Learning: Hu et al., "Addressing data heterogeneity in distributed medical imaging with heterosync
learning", Nature Communications 16:9416, 2025; methods.md 2.

Every node trains one multi-gate mixture-of-experts network on pairs (x1 primary, x2 of the shared anchor task):

    L = (1 - w) BCE(z1, y1) + w BCE(z2, y2),   w = sat_weight = 1/2
    fused = 1/n sum_k update_k                 (the paper's equation 1, over all tensors)

`use_sat` false is the ablation No-SAT (methods.md 4.20): the network stays intact, its second input is the primary
image itself, in training as in scoring, and only tower 1 is trained. The ablation No-AL is method `swarm` with
architecture `plain` or `trunk`.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from hsl_model.batches import Batch
from hsl_model.losses import task_loss
from hsl_model.methods.base import LocalRun, Method
from hsl_model.network import NetworkOutput


@dataclass(frozen=True)
class HeteroSync(Method):
    sat_weight: float = 0.5
    use_sat: bool = True

    def select(self, batch: Batch) -> Batch:
        return batch if self.use_sat else replace(batch, sat_images=batch.images, sat_labels=None)

    def loss(self, run: LocalRun, output: NetworkOutput, batch: Batch) -> Tensor:  # noqa: ARG002
        return task_loss(output, batch, self.sat_weight)

    def partners(self, anchors: Tensor | None) -> Tensor | None:
        return anchors if self.use_sat else None
