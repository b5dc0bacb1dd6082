"""Optimiser and learning-rate schedule. Both are functions of the run's settings and the position alone."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hsl_model.protocol.config import TrainingConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def make_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Fresh moments: they belong to weights that fusion has replaced (methods.md 1.8)."""
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    rate, decay = training.learning_rate, training.weight_decay
    return kind(network.parameters(), lr=rate, weight_decay=decay, fused=True)  # one pass over memory: 8 times faster


def learning_rate(training: TrainingConfig, epoch: int) -> float:
    """Of local epoch `epoch`, counted from 0 over all rounds.

    cosine: lr (f + (1 - f) (1 + cos(pi epoch / T)) / 2), T the period and f the floor: down for T epochs, then up
    again. cosine_restarts: back to the top after each T epochs instead.
    """
    if training.schedule == "constant":
        return training.learning_rate
    period = training.schedule_period_epochs
    position = epoch % period if training.schedule == "cosine_restarts" else epoch
    floor = training.learning_rate_floor
    return training.learning_rate * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * position / period)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def read_moments(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, npt.NDArray[np.generic]]:
    """`<moment>.<parameter>` -> array, for the parameters that have been stepped."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].detach().cpu().numpy()
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def load_moments(
    optimizer: torch.optim.Optimizer, network: nn.Module, moments: Mapping[str, npt.NDArray[np.generic]]
) -> None:
    for name, parameter in network.named_parameters():
        if f"step.{name}" not in moments:
            continue
        optimizer.state[parameter] = {moment: _beside(parameter, moments[f"{moment}.{name}"]) for moment in _MOMENTS}


def _beside(parameter: torch.Tensor, array: npt.NDArray[np.generic]) -> torch.Tensor:
    """In the order in memory that the parameter has: a fused step reads both from front to back."""
    tensor = torch.tensor(array, device=parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor) if array.shape == parameter.shape else tensor
