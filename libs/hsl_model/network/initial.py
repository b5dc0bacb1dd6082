"""Initial values, keyed by tensor name.

Every tensor comes from a generator of its own, keyed by (seed, "initialise", its name). So neither the order of
construction nor a part that another architecture lacks changes a single value, and arms of a study start alike.

    convolutions                    normal, Kaiming fan-out (as torchvision's ResNet)
    experts, towers: weights        uniform, Xavier (as published)
    other linear layers: weights    uniform within 1 / sqrt(fan in) (PyTorch's default)
    biases                          uniform within 1 / sqrt(fan in) (PyTorch's default)
    normalisation                   weight 1, bias 0, mean 0, variance 1, counter 0
    scale of cosines                SCALE
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hsl_model.network.anchors import AnchorCosines
from hsl_model.network.mixture import Experts, Tower
from hsl_model.network.network import Network
from hsl_model.seeding import torch_generator

SCALE = 10.0
"""Cosines times weights of about 1 / sqrt(K) would begin far below what tells two classes apart."""
Rule = Callable[[Tensor, torch.Generator], None]


@torch.no_grad()
def initialise(network: Network, seed: int) -> None:
    """Set every parameter and buffer of a network on CPU. Raises `TypeError` for a module without a rule."""
    rules = _rules(network)
    for name, tensor in network.state_dict().items():
        if name not in rules:
            raise TypeError(f"no rule initialises tensor {name}; add one for its module's type")
        rules[name](tensor, torch_generator(seed, "initialise", name))


def _rules(network: nn.Module) -> dict[str, Rule]:
    xavier = {id(part) for tower in network.modules() if isinstance(tower, Tower) for part in tower.modules()}
    rules: dict[str, Rule] = {}
    for path, module in network.named_modules():
        found: dict[str, Rule] = {}
        if isinstance(module, nn.Conv2d):
            found = {"weight": _kaiming_normal}
        elif isinstance(module, nn.Linear):
            weight = _xavier_uniform if id(module) in xavier else _uniform(module.in_features)
            found = {"weight": weight, "bias": _uniform(module.in_features)}
        elif isinstance(module, Experts):
            found = _expert_rules(module)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            found = {name: _constant(1 if name in ("weight", "running_var") else 0) for name in module.state_dict()}
        elif isinstance(module, AnchorCosines):
            found = {"scale": _constant(SCALE)}
        rules |= {f"{path}.{name}": rule for name, rule in found.items()}
    return rules


def _expert_rules(experts: Experts) -> dict[str, Rule]:
    return {
        "hidden_weight": _xavier_uniform,
        "hidden_bias": _uniform(experts.hidden_weight.shape[-1]),
        "output_weight": _xavier_uniform,
        "output_bias": _uniform(experts.output_weight.shape[-1]),
    }


def _kaiming_normal(tensor: Tensor, random: torch.Generator) -> None:
    nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=random)


def _xavier_uniform(tensor: Tensor, random: torch.Generator) -> None:
    """Of one matrix (out, in), or of each in a stack (experts, out, in)."""
    for matrix in tensor.view(-1, *tensor.shape[-2:]):
        nn.init.xavier_uniform_(matrix, generator=random)


def _uniform(fan_in: int) -> Rule:
    bound = 1.0 / math.sqrt(fan_in)

    def fill(tensor: Tensor, random: torch.Generator) -> None:
        tensor.uniform_(-bound, bound, generator=random)

    return fill


def _constant(value: float) -> Rule:
    def fill(tensor: Tensor, random: torch.Generator) -> None:
        del random
        tensor.fill_(value)

    return fill
