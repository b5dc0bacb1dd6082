"""Learning from the SAT without its labels: two views of one image should be alike, views of two images not.

Contrastive learning of Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020,
arXiv 2002.05709. A step draws B images, each in two views: rotated, flipped, and stored by another machine
(`hsl_model.photometric`), by streams of their own. With f the features of a view, of length 1, and j its image's other:

    z_i = s_ij - log sum_{k != i, j} exp(s_ik),   s_ik = f_i . f_k / TEMPERATURE

are the log odds that i's other view is told from the 2B - 2 views of other images. Their cross-entropy with the answer
"yes" is log(1 + exp(-z_i)) = -log softmax(s_i)_j, the paper's loss; so the engine's own loop and loss train it. There
is no projection after the encoder, whose tensors are all that a run takes over.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hsl_model.batches import Batch, PairLoader
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions, RoundResult, RoundSpec, train_at
from hsl_model.network import Network, NetworkOutput
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.workplace import OneSite
from hsl_study.federation import NodeWork, never

TEMPERATURE = 0.1
PHOTOMETRIC = 1.0


def views_run(before: RunConfig, num_anchors: int) -> RunConfig:
    """The pre-training as learning from views. An epoch shows no image twice, so no batch holds one as two images."""
    settings = before.training
    changes = {
        "augment": True,
        "photometric": PHOTOMETRIC,
        "balanced_sampler": False,
        "images_per_epoch": min(settings.images_per_epoch or num_anchors, num_anchors),
        "share_epoch": "last",  # no label tells which epoch is best
    }
    return before.model_copy(update={"training": settings.model_copy(update=changes)})


def unlabelled(sat: ImageSet) -> SiteData:
    """Every image of the SAT as one site's training images. Labels are all 0, so that none can be learnt from."""
    training = ImageSet(sat.images, np.zeros_like(sat.labels))
    nothing = ImageSet(sat.images[:0], sat.labels[:0])
    return SiteData(training, nothing, nothing, training)  # grey levels may follow its curve


def train_views(
    nodes: Sequence[NodeWork], options: EngineOptions, should_stop: Callable[[], bool] = never
) -> dict[str, RoundResult]:
    if options.micro_batch_size is not None:
        raise ConfigError(reason="views are compared with all of their batch: leave micro_batch_size out")
    return {
        node.spec.node_id: train_at(
            ViewsSite(OneSite(node.spec, node.data, node.start, options)),
            node.workspace,
            options,
            should_stop=should_stop,
            progress=lambda _done, _total: None,
        )
        for node in nodes
    }


class Agreement(Network):
    """Another network's parts under their own names. Logits (2B,) of 2B images: B first views, then B second ones."""

    architecture = "agreement"

    def __init__(self, network: Network) -> None:
        super().__init__()
        for name, part in network.named_children():
            self.add_module(name, part)

    def forward(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        del sat
        features = self.primary_encoder(primary)
        with torch.autocast(features.device.type, enabled=False):
            return NetworkOutput(log_odds(features.float()))

    def _evaluate(self, primary: Tensor, anchors: Tensor | None) -> Tensor:
        raise NotImplementedError("it scores no image: the run's own network does, in its own training")


def log_odds(features: Tensor) -> Tensor:
    """z of this file's head: (2B, F) -> (2B,), B at least 2."""
    directions = functional.normalize(features, dim=1)
    likeness = directions @ directions.T / TEMPERATURE
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    other_view = itself.roll(len(features) // 2, dims=1)
    return likeness[other_view] - likeness.masked_fill(itself | other_view, -math.inf).logsumexp(dim=1)


@dataclass(frozen=True)
class ViewBatches:
    """Two views of each image of a batch. The label says of every view that it has another one."""

    loader: PairLoader

    @property
    def steps_per_epoch(self) -> int:
        return self.loader.steps_per_epoch

    def epoch_of_run(self, epoch: int, step: int) -> int:
        return self.loader.epoch_of_run(epoch, step)

    def batch(self, epoch: int, step: int) -> Batch:
        views = torch.cat((self.loader.batch(epoch, step).images, self.loader.second_view(epoch, step)))
        return Batch(views, torch.ones(len(views), device=views.device))


@dataclass(frozen=True)
class ViewsSite:
    """A site that learns from views of its training images, and validates nothing."""

    site: OneSite

    @property
    def spec(self) -> RoundSpec:
        return self.site.spec

    @property
    def num_cases(self) -> int:
        return self.site.num_cases

    def identity(self) -> str:
        return hashlib.sha256(f"views {TEMPERATURE} {self.site.identity()}".encode()).hexdigest()

    def style(self) -> None:
        """Method swarm shares none."""

    def network(self) -> Network:
        return Agreement(self.site.network())

    def batches(self) -> ViewBatches:
        return ViewBatches(self.site.batches())

    def validate(self, network: Network, each_batch: Callable[[], None]) -> ValidationMetrics:
        del network, each_batch
        return ValidationMetrics(auc=None, loss=None, num_cases=0)
