"""Encoders: an image (B, C, H, W) to 512 non-negative features (B, 512).

`resnet18` is torchvision's, with free input channels and without its classifier; `resnet_small` has the same form with
few channels, for tests and demonstrations on CPUs. Its block is written here: importing torchvision takes as long as
importing torch, at every start of a training child.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from hsl_model.protocol.config import NetworkConfig

NUM_FEATURES = 512
_SMALL_CHANNELS = 8, 16, 32
Norm = Callable[[int], nn.Module]


class Encoder(nn.Module):
    """Backbone -> 512, linear 512 -> 512, ReLU (methods.md 2.1, step 1)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(NUM_FEATURES, NUM_FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.projection(self.backbone(images)))


class PlainEncoder(nn.Module):
    """A backbone under the name it has in an `Encoder`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features


class TwoDomainNorm(nn.Module):
    """Batch normalisation with one set of everything for primary images and another for SAT images.

    A shared encoder uses it, so that SAT images never touch the statistics with which primary images are scored, and
    anchors are scored with statistics of their own kind. See `sat_statistics`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.primary = nn.BatchNorm2d(channels)
        self.sat = nn.BatchNorm2d(channels)
        self.sees_sat = False

    def forward(self, values: Tensor) -> Tensor:
        normalised: Tensor = self.sat(values) if self.sees_sat else self.primary(values)
        return normalised


@contextmanager
def sat_statistics(encoder: nn.Module) -> Iterator[None]:
    """Inside, a shared encoder normalises as for SAT images; outside always as for primary ones."""
    norms = [module for module in encoder.modules() if isinstance(module, TwoDomainNorm)]
    for norm in norms:
        norm.sees_sat = True
    try:
        yield
    finally:
        for norm in norms:
            norm.sees_sat = False


def build_backbone(config: NetworkConfig, channels: int, *, two_domains: bool = False) -> nn.Module:
    """(B, channels, H, W) -> (B, 512). `two_domains`: primary and SAT images will share it."""
    norm = _norm(config.normalisation, two_domains=two_domains)
    return _resnet18(channels, norm) if config.encoder == "resnet18" else SmallResNet(channels, norm)


def _norm(kind: Literal["batch", "group"], *, two_domains: bool) -> Norm:
    if kind == "group":
        return lambda channels: nn.GroupNorm(min(32, channels // 2), channels)
    return TwoDomainNorm if two_domains else nn.BatchNorm2d


def _resnet18(channels: int, norm: Norm) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    backbone: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=norm)
    backbone.fc = nn.Identity()
    if channels != 3:
        backbone.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return backbone


class Block(nn.Module):
    """Two convolutions beside a shortcut: He et al., CVPR 2016, as torchvision's `BasicBlock` to the bit."""

    def __init__(self, before: int, after: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(after)
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False)
        self.bn2 = norm(after)
        shortcut = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
        self.downsample = None if stride == 1 else nn.Sequential(shortcut, norm(after))

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(maps)))
        beside = maps if self.downsample is None else self.downsample(maps)
        return torch.relu(self.bn2(self.conv2(inner)) + beside)


class SmallResNet(nn.Module):
    """Stem and three blocks of 8, 16 and 32 channels at 1/2, 1/4 and 1/8 of the size; then linear 32 -> 512, ReLU."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        first, second, third = _SMALL_CHANNELS
        self.conv1 = nn.Conv2d(channels, first, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = norm(first)
        self.layer1 = Block(first, first, norm)
        self.layer2 = Block(first, second, norm, stride=2)
        self.layer3 = Block(second, third, norm, stride=2)
        self.widen = nn.Linear(third, NUM_FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        stem = torch.relu(self.bn1(self.conv1(images)))
        maps: Tensor = self.layer3(self.layer2(self.layer1(stem)))
        return torch.relu(self.widen(maps.mean(dim=(2, 3))))
