"""The architectures behind one face.

mmoe (published, methods.md 2.1)            trunk (No-AL, stricter)     plain (every CNN baseline)

x1 -> E1 -> h1 -+- D1 --------> u1          x1 -> E1 -> h1              x1 -> backbone -> 512
                |                |                       |                                 |
                +-> e -> experts |                      D1                              linear
                |   |      |     |                       |                                 |
                |  gate1 --+-> t1 + u1 -> tower 1      tower 1                             z1
                |  gate2 --+-> t2 + u2 -> tower 2        |
                |                |                       z1
x2 -> E2 -> h2 -+- D2 --------> u2

twin: x1 -> E1 and x1 -> E2, concatenated -> linear 1024 -> H, ReLU, dropout 0.3, linear H -> 1: as many parameters as
mmoe and nothing to do with a SAT, the baseline that is matched to HSL in size.

relative: x1 and K anchors -> the backbone of plain; cosines of 512 features, image against anchor, -> linear K -> 1.

Equal parts have equal tensor names in all of them, and so equal initial values (`initialise`). Towers return logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hsl_model.network.anchors import AnchorCosines
from hsl_model.network.encoders import NUM_FEATURES, Encoder, PlainEncoder, build_backbone, sat_statistics
from hsl_model.network.mixture import (
    NUM_JOINT,
    NUM_TASK_FEATURES,
    Experts,
    Gate,
    JointEmbedding,
    Tower,
    mix,
    spread_ratio,
)
from hsl_model.protocol.config import NetworkConfig

SCORING_BATCH = 8
"""Images are scored in batches of exactly this size, the last one filled up: kernels choose their order of summation by
the size of a batch, so with one size the score of an image has the same bits whoever is scored beside it."""


@dataclass
class NetworkOutput:
    """Logits (B,) of one training step. `mixture_ratio`: sd(mixture) / sd(skip) of the primary task, detached."""

    primary_logit: Tensor
    sat_logit: Tensor | None = None
    mixture_ratio: Tensor | None = None


class Network(nn.Module, ABC):
    architecture: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("head",)  # the parts that turn features into logits
    primary_encoder: nn.Module  # images (B, C, H, W) -> h1 (B, 512)

    @abstractmethod
    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        """A pair of batches (B, C, H, W), float, normalised. `sat` is None unless the architecture is mmoe, or
        relative, where it holds the K anchors."""

    @abstractmethod
    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        """Logits (B,) of one scoring batch, in evaluation."""

    def anchor_features(self, sat: Tensor) -> Tensor:
        """Of the anchors (K, C, H, W): (K, 512), in evaluation. The caller keeps it until the weights change."""
        del sat
        raise ValueError(f"the {self.architecture} network has no shared anchor task")

    @torch.no_grad()
    def score(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        """Primary logits (B,) in evaluation beside the anchors (K, 512); mmoe's are means over them, methods.md H8.

        Deterministic, and independent of the rest of the batch. `anchors` None: mmoe pairs each image with itself (the
        authors' demo, and the ablation No-SAT); trunk, plain and twin have no second input and ignore it.
        """
        with self._evaluating():
            slices = [
                self._evaluate(_filled(part), anchors)[: len(part)] for part in torch.split(primary, SCORING_BATCH)
            ]
        return torch.cat(slices)

    def mixture_ratio(self, batches: Iterable[Tensor], anchors: Tensor) -> Tensor | None:
        """sd(mixture) / sd(skip) of the primary task over the images of all batches, in evaluation, at each of the
        anchors (K, 512) by itself; their mean, scalar (methods.md H9). None where there is no mixture or one image.
        """
        del batches, anchors
        return None

    def fix_head(self) -> None:
        """Training leaves the head as it is: Oh et al., "FedBABU: towards enhanced representation for federated image
        classification", ICLR 2022, arXiv 2106.06042, where the body alone is trained and fused."""
        for name in self.heads:
            self.get_submodule(name).requires_grad_(requires_grad=False)

    def normalisation_tensors(self) -> frozenset[str]:
        """Names of all parameters and buffers of batch normalisation, by module type: names would miss
        `downsample.1` (methods.md 4.6)."""
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return frozenset(
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, kinds)
            for name in module.state_dict()
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


class MixtureNetwork(Network):
    architecture = "mmoe"
    heads = ("primary_tower", "sat_tower")

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        shared = config.encoders == "shared"
        self.primary_encoder = Encoder(build_backbone(config, channels, two_domains=shared))
        self.sat_encoder = None if shared else Encoder(build_backbone(config, channels))
        self.primary_skip = nn.Linear(NUM_FEATURES, NUM_TASK_FEATURES)
        self.sat_skip = nn.Linear(NUM_FEATURES, NUM_TASK_FEATURES)
        self.embedding = JointEmbedding(config)
        self.experts = Experts(config.num_experts)
        self.primary_gate = Gate(config)
        self.sat_gate = Gate(config)
        self.primary_tower = Tower()
        self.sat_tower = Tower()

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        if sat is None:
            raise ValueError("the mmoe network needs a batch of the shared anchor task beside the primary one")
        primary_features, sat_features = self.primary_encoder(primary), self._encode_sat(sat)
        # The published mixture varies by 1e-4 between images, far below the resolution of half precision.
        with torch.autocast(primary.device.type, enabled=False):
            return self._mixed(primary_features.float(), sat_features.float())

    def _mixed(self, primary_features: Tensor, sat_features: Tensor) -> NetworkOutput:
        embedding = self.embedding(primary_features, sat_features)
        experts = self.experts(embedding)
        primary_gate = self.primary_gate(embedding)
        primary_skip = self.primary_skip(primary_features)
        sat_mixture = mix(self.sat_gate(embedding), experts)
        with torch.no_grad():
            mixture_ratio = spread_ratio(mix(primary_gate, self.experts.without_dropout(embedding)), primary_skip)
        return NetworkOutput(
            primary_logit=self.primary_tower(mix(primary_gate, experts) + primary_skip),
            sat_logit=self.sat_tower(sat_mixture + self.sat_skip(sat_features)),
            mixture_ratio=mixture_ratio,
        )

    @torch.no_grad()
    def anchor_features(self, sat: Tensor) -> Tensor:
        with self._evaluating():
            return self._encode_sat(sat)

    def _encode_sat(self, sat: Tensor) -> Tensor:
        encoder = self.primary_encoder if self.sat_encoder is None else self.sat_encoder
        with sat_statistics(encoder):
            features: Tensor = encoder(sat)
        return features

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        partners = self._encode_sat(primary)[:, None] if anchors is None else anchors.expand(len(primary), -1, -1)
        mixture, skip = self._primary_parts(primary, partners)
        logits: Tensor = self.primary_tower(mixture + skip)
        return logits.view(-1, partners.shape[1]).mean(dim=1)

    def _primary_parts(self, primary: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Mixture and skip of each image beside each of its `partners` (B, K, 512): (B * K, 32) both."""
        repeated = self.primary_encoder(primary).repeat_interleave(partners.shape[1], dim=0)
        embedding = self.embedding(repeated, partners.flatten(0, 1))
        return mix(self.primary_gate(embedding), self.experts(embedding)), self.primary_skip(repeated)

    @torch.no_grad()
    def mixture_ratio(self, batches: Iterable[Tensor], anchors: Tensor) -> Tensor | None:
        with self._evaluating():
            parts = [self._primary_parts(batch, anchors.expand(len(batch), -1, -1)) for batch in batches]
        mixture, skip = (
            torch.cat(part).view(-1, *anchors.shape[:1], NUM_TASK_FEATURES) for part in zip(*parts, strict=True)
        )
        found = (spread_ratio(mixture[:, anchor], skip[:, anchor]) for anchor in range(len(anchors)))
        ratios = [ratio for ratio in found if ratio is not None]
        return torch.stack(ratios).mean() if ratios else None


class TrunkNetwork(Network):
    architecture = "trunk"
    heads = ("primary_tower",)

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.primary_encoder = Encoder(build_backbone(config, channels))
        self.primary_skip = nn.Linear(NUM_FEATURES, NUM_TASK_FEATURES)
        self.primary_tower = Tower()

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        del sat
        return NetworkOutput(self.primary_tower(self.primary_skip(self.primary_encoder(primary))))

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        return self.forward(primary, anchors).primary_logit


class PlainNetwork(Network):
    """11,177,025 parameters with ResNet-18 and three channels (methods.md 3)."""

    architecture = "plain"

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.primary_encoder = PlainEncoder(build_backbone(config, channels))
        self.head = nn.Linear(NUM_FEATURES, 1)

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        del sat
        return NetworkOutput(self.head(self.primary_encoder(primary)).squeeze(1))

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        return self.forward(primary, anchors).primary_logit


class TwinNetwork(Network):
    """H is the width that brings its parameters closest to those of mmoe, within half of 1026."""

    architecture = "twin"

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.primary_encoder = Encoder(build_backbone(config, channels))
        self.second_encoder = Encoder(build_backbone(config, channels))
        with torch.device("meta"):
            wanted = _num_parameters(MixtureNetwork(config.model_copy(update={"encoders": "separate"}), channels))
        num_hidden = round((wanted - _num_parameters(self) - 1) / (NUM_JOINT + 2))
        self.hidden = nn.Linear(NUM_JOINT, num_hidden)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(num_hidden, 1)

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        del sat
        joint = torch.cat((self.primary_encoder(primary), self.second_encoder(primary)), dim=1)
        return NetworkOutput(self.head(self.dropout(torch.relu(self.hidden(joint)))).squeeze(1))

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        return self.forward(primary, anchors).primary_logit


class RelativeNetwork(Network):
    """One encoder for primary images and anchors, whose features are those of the same step's weights."""

    architecture = "relative"
    heads = ("relative_head",)

    def __init__(self, config: NetworkConfig, channels: int, num_anchors: int) -> None:
        super().__init__()
        self.primary_encoder = PlainEncoder(build_backbone(config, channels))
        self.relation = AnchorCosines()
        self.relative_head = nn.Linear(num_anchors, 1)

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        if sat is None:
            raise ValueError("the relative network needs the anchors beside the primary images")
        features = self.primary_encoder(torch.cat((primary, sat)))  # one pass: group norm treats each image for itself
        return NetworkOutput(self._related(features[: len(primary)], features[len(primary) :]))

    @torch.no_grad()
    def anchor_features(self, sat: Tensor) -> Tensor:
        with self._evaluating():
            features: Tensor = self.primary_encoder(sat)
        return features

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        if anchors is None:
            raise ValueError("the relative network scores an image beside its anchors")
        return self._related(self.primary_encoder(primary), anchors)

    def _related(self, features: Tensor, anchors: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.relative_head(self.relation(features.float(), anchors.float()))
        return logits.squeeze(1)


def _num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _filled(images: Tensor) -> Tensor:
    missing = SCORING_BATCH - images.shape[0]
    return functional.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images


_ARCHITECTURES = {kind.architecture: kind for kind in (MixtureNetwork, TrunkNetwork, PlainNetwork, TwinNetwork)}


def build_network(config: NetworkConfig, architecture: str, channels: int, num_anchors: int = 16) -> Network:
    """The network for images of `channels` channels and any size. Its weights mean nothing before `initialise`.

    `num_anchors` is the width of relative's head; no other architecture asks for it.
    """
    if architecture == RelativeNetwork.architecture:
        return RelativeNetwork(config, channels, num_anchors)
    network: Network = _ARCHITECTURES[architecture](config, channels)
    return network
