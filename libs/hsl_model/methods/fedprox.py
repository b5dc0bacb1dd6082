"""FedProx: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, arXiv 1812.06127;
methods.md 4.7.

    L = L_FedAvg + (mu / 2) sum_p ||p - p_start||^2     over trainable parameters, p_start the round's start model

Fusion as FedAvg. With mu = 0 it is FedAvg. Adam normalises both gradients together, so a small mu does little.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hsl_model.batches import Batch
from hsl_model.losses import task_loss
from hsl_model.methods.base import LocalRun, Method
from hsl_model.network import NetworkOutput


@dataclass(frozen=True)
class FedProx(Method):
    mu: float = 0.01

    def begin_round(self, run: LocalRun) -> None:
        run.memory.update((name, value.detach().clone()) for name, value in run.network.named_parameters())

    def loss(self, run: LocalRun, output: NetworkOutput, batch: Batch) -> Tensor:
        pulls = [(value - run.memory[name]).square().sum() for name, value in run.network.named_parameters()]
        return task_loss(output, batch) + 0.5 * self.mu * torch.stack(pulls).sum()
