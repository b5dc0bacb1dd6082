"""FedAvg: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
arXiv 1602.05629; methods.md 4.3.

    fused = sum_k (n_k / N) update_k           n_k training cases at node k, N over the plan
"""

from dataclasses import dataclass

from hsl_model.methods.base import Method


@dataclass(frozen=True)
class FedAvg(Method):
    """The defaults; the weights by cases stand in the registry."""
