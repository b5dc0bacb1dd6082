"""The weight of each update in a fusion plan: one rule, for the coordinator and for the in-process federation."""

from collections.abc import Mapping
from typing import Literal

from hsl_model.protocol.errors import ConfigError


def plan_weights(weighting: Literal["uniform", "cases"], num_cases: Mapping[str, int]) -> dict[str, float]:
    """Node id -> weight, in sorted node order: 1/n (the paper's equation 1) or num_cases/N (FedAvg).

    Each weight is one float64 division. The plan carries it, and every node applies it as written, so the weights need
    not add up to 1 to the last bit.
    """
    if not num_cases:
        raise ConfigError(reason="a fusion plan needs at least one update")
    nodes = sorted(num_cases)
    if weighting == "uniform":
        return {node: 1.0 / len(nodes) for node in nodes}
    total = sum(num_cases.values())
    if total <= 0 or min(num_cases.values()) < 0:
        raise ConfigError(reason=f"weights by cases need positive numbers of cases, got {dict(num_cases)}")
    return {node: num_cases[node] / total for node in nodes}
