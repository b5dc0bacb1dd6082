"""The parts of the mixture: joint embedding, experts, gates, towers (methods.md 2.1, steps 3 to 6)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hsl_model.network.encoders import NUM_FEATURES
from hsl_model.protocol.config import NetworkConfig

NUM_JOINT = 2 * NUM_FEATURES
NUM_HIDDEN = 62  # of an expert, as published (64 was probably meant)
NUM_TASK_FEATURES = 32


class JointEmbedding(nn.Module):
    """(B, 512) and (B, 512) -> (B, 1024). No parameters.

    softmax:   e = scale * softmax(concat(h1, h2) / T)      sums to `scale`; published: T = 3, scale = 1
    layernorm: e = scale * layernorm(concat(h1, h2)) / T    each entry of the order of 1, so the mixture is alive (H9)

    T is 1 here where the temperature is on the gate instead.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self._kind = config.embedding
        self._temperature = config.temperature if config.temperature_on == "embedding" else 1.0
        self._scale = config.mixture_scale

    def forward(self, primary: Tensor, sat: Tensor) -> Tensor:
        joint = torch.cat((primary, sat), dim=1)
        if self._kind == "softmax":
            return self._scale * torch.softmax(joint / self._temperature, dim=1)
        return (self._scale / self._temperature) * functional.layer_norm(joint, (NUM_JOINT,))


class Experts(nn.Module):
    """All experts at once: (B, 1024) -> (B, experts, 32). Each: linear 1024 -> 62, ReLU, dropout 0.3, linear 62 -> 32.

    They share their input, so their first layers are one product and their second layers one batched product.
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(num_experts, NUM_HIDDEN, NUM_JOINT))
        self.hidden_bias = nn.Parameter(torch.empty(num_experts, NUM_HIDDEN))
        self.output_weight = nn.Parameter(torch.empty(num_experts, NUM_TASK_FEATURES, NUM_HIDDEN))
        self.output_bias = nn.Parameter(torch.empty(num_experts, NUM_TASK_FEATURES))
        self.dropout = nn.Dropout(0.3)

    def forward(self, embedding: Tensor) -> Tensor:
        return self._output(self.dropout(self._hidden(embedding)))

    def without_dropout(self, embedding: Tensor) -> Tensor:
        """The same without the noise of dropout, which in training is far larger than what the mixture says."""
        return self._output(self._hidden(embedding))

    def _hidden(self, embedding: Tensor) -> Tensor:
        flat = functional.linear(embedding, self.hidden_weight.flatten(0, 1), self.hidden_bias.flatten())
        return torch.relu(flat).view(-1, *self.hidden_bias.shape)

    def _output(self, hidden: Tensor) -> Tensor:
        return torch.einsum("beh,eoh->beo", hidden, self.output_weight) + self.output_bias


class Gate(nn.Module):
    """(B, 1024) -> (B, experts), each row adding up to 1: linear, softmax(. / T); published: T = 1."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_JOINT, config.num_experts)
        self._temperature = config.temperature if config.temperature_on == "gate" else 1.0

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.softmax(self.linear(embedding) / self._temperature, dim=1)


class Tower(nn.Module):
    """(B, 32) -> logits (B,): linear 32 -> 16, ReLU, dropout 0.4, linear 16 -> 1. No sigmoid (methods.md H7)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(NUM_TASK_FEATURES, 16)
        self.dropout = nn.Dropout(0.4)
        self.output = nn.Linear(16, 1)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(torch.relu(self.hidden(features))))
        return logits.squeeze(1)


def mix(gate: Tensor, experts: Tensor) -> Tensor:
    """t = sum_i g_i expert_i: (B, experts) and (B, experts, 32) -> (B, 32)."""
    return torch.einsum("be,beo->bo", gate, experts)


def spread_ratio(mixture: Tensor, skip: Tensor) -> Tensor | None:
    """sd(t) / sd(u) over the images of a batch, in the mean square over the 32 features; scalar.

    It tells whether the mixture says anything about an image at all (methods.md H9). None for a batch of one.
    """
    if mixture.shape[0] < 2:
        return None
    mixture_variance = mixture.var(dim=0, correction=0).mean()
    skip_variance = skip.var(dim=0, correction=0).mean()
    return torch.sqrt(mixture_variance / skip_variance.clamp_min(torch.finfo(skip.dtype).tiny))
