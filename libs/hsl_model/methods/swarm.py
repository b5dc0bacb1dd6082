"""Swarm Learning's parameter merging: Warnat-Herresthal et al., "Swarm Learning for decentralized and confidential
clinical machine learning", Nature 594:265-270, 2021; methods.md 4.5.

    fused = 1/n sum_k update_k                 over all tensors, running statistics included

With architecture `plain` or `trunk` this is the ablation No-AL of HSL (methods.md 4.20).
"""

from dataclasses import dataclass

from hsl_model.methods.base import Method


@dataclass(frozen=True)
class Swarm(Method):
    """The defaults; the equal weights stand in the registry."""
