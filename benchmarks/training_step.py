"""A training step of the published network against two bare ResNet-18 steps at the same batch.

The published network is two ResNet-18 and a small mixture, so two bare ones are what it cannot beat; the target says
that the mixture may cost a tenth. Both sides: float32 on CPU (bfloat16 autocast on a GPU), AdamW, cross-entropy on
logits, forward, backward and step; images are already in memory, and freed memory is kept as in the training child.
"""

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.models import resnet18

from benchmarks.record import Record, alternate, rounded_median
from hsl_model.memory import keep_all_freed_memory
from hsl_model.network import build_network, initialise
from hsl_model.protocol.config import NetworkConfig

TARGET = 0.9  # of the throughput of two bare steps
SIZE = 224
REPEATS = 5
Loss = Callable[[], Tensor]


def measure() -> Iterator[Record]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_all_freed_memory()
    yield _compare("cpu", 16)
    if torch.cuda.is_available():
        yield _compare("cuda", 64)


def _compare(device: str, batch_size: int) -> Record:
    random = torch.Generator().manual_seed(0)
    primary, sat = (torch.randn(batch_size, 3, SIZE, SIZE, generator=random).to(device) for _ in range(2))
    labels = (torch.arange(batch_size, device=device) % 2).float()
    taken = alternate(
        {"published": _published(primary, sat, labels), "two_resnet18": _two_bare(primary, sat, labels)}, REPEATS
    )
    seconds = {name: rounded_median(wall_s) for name, (wall_s, _) in taken.items()}
    cpu_seconds = {name: rounded_median(cpu_s) for name, (_, cpu_s) in taken.items()}
    ratio = round(seconds["two_resnet18"] / seconds["published"], 3)
    return {
        "case": f"{device}, batch {batch_size}, {SIZE} x {SIZE} x 3",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "repeats": REPEATS,
        "published_step_s": seconds["published"],
        "two_resnet18_steps_s": seconds["two_resnet18"],
        "published_step_cpu_s": cpu_seconds["published"],
        "two_resnet18_steps_cpu_s": cpu_seconds["two_resnet18"],
        "throughput_ratio": ratio,
        "target": f"throughput_ratio >= {TARGET}",
        "target_met": ratio >= TARGET,
    }


def _published(primary: Tensor, sat: Tensor, labels: Tensor) -> Callable[[], None]:
    network = build_network(NetworkConfig(), "mmoe", 3)
    initialise(network, 0)
    network.to(primary.device).train()

    def loss() -> Tensor:
        output = network(primary, sat)
        return 0.5 * cross_entropy(output.primary_logit, labels) + 0.5 * cross_entropy(output.sat_logit, labels)

    return _step(network, loss)


def _two_bare(primary: Tensor, sat: Tensor, labels: Tensor) -> Callable[[], None]:
    steps = [_bare(images, labels) for images in (primary, sat)]

    def both() -> None:
        for step in steps:
            step()

    return both


def _bare(images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = resnet18(weights=None, num_classes=1).to(images.device).train()
    return _step(network, lambda: cross_entropy(network(images).squeeze(1), labels))


def _step(network: nn.Module, loss: Loss) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    device = next(network.parameters()).device.type

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss()
        torch.autograd.backward(value)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step
