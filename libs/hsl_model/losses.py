"""Losses on logits. Sigmoid inside the network would lose its gradient once saturated (methods.md H7)."""

from torch import Tensor
from torch.nn import functional

from hsl_model.batches import Batch
from hsl_model.network import NetworkOutput


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch, in float32 whatever the precision of the forward pass."""
    return functional.binary_cross_entropy_with_logits(logits.float(), labels)


def task_loss(output: NetworkOutput, batch: Batch, sat_weight: float = 0.5) -> Tensor:
    """(1 - w) BCE(z1, y1) + w BCE(z2, y2) with w = `sat_weight` (methods.md 2.4); BCE(z1, y1) where there is no SAT."""
    primary = binary_cross_entropy(output.primary_logit, batch.labels)
    if output.sat_logit is None or batch.sat_labels is None:
        return primary
    return (1.0 - sat_weight) * primary + sat_weight * binary_cross_entropy(output.sat_logit, batch.sat_labels)
