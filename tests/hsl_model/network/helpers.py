"""Small initialised networks and random images."""

from typing import Any

import torch
from torch import Tensor

from hsl_model.network import Network, build_network, initialise
from hsl_model.protocol.config import NetworkConfig


def small_config(**changes: Any) -> NetworkConfig:
    return NetworkConfig.model_validate({"encoder": "resnet_small", "num_experts": 3, **changes})


def small_network(architecture: str = "mmoe", channels: int = 1, seed: int = 0, **changes: Any) -> Network:
    network = build_network(small_config(**changes), architecture, channels)
    initialise(network, seed)
    return network


def images(count: int, seed: int = 0, channels: int = 1, size: int = 16) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def copy_state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(network: Network, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
