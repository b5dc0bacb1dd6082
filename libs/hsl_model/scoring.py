"""Scoring without training: validation after each epoch and fusion, the test at the end, prediction of new images.

Every image is scored once, in order, unbalanced and unaugmented (methods.md H1). The batch size is the run's, never
the site's, so that the AUC is the same to the last bit wherever it is computed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hsl_model.augment import normalise
from hsl_model.batches import anchor_images, check_data
from hsl_model.data import ImageSet, SiteData
from hsl_model.intensity import Intensity
from hsl_model.methods import load
from hsl_model.methods.base import Method
from hsl_model.metrics import is_one_answer, log_loss, roc_auc
from hsl_model.model_state import load_network
from hsl_model.network import Network
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.round_work import DivergedError, EngineOptions, RoundSpec

Logits = npt.NDArray[np.float32]


def validate(spec: RoundSpec, data: SiteData, start: Sequence[Path], options: EngineOptions) -> ValidationMetrics:
    """The model a node would deploy, on its validation set."""
    return evaluate(spec, data, start, options, "validation")


def evaluate(
    spec: RoundSpec,
    data: SiteData,
    start: Sequence[Path],
    options: EngineOptions,
    split: Literal["validation", "test"],
) -> ValidationMetrics:
    check_data(spec.config, data)
    torch.set_num_threads(options.num_threads)
    scorer = Scorer(spec.config, load_network(spec.config, start, options.device), data.sat)
    return scorer.metrics(data.validation if split == "validation" else data.test)


def predict(
    config: RunConfig,
    images: npt.NDArray[np.uint8],
    start: Sequence[Path],
    sat: ImageSet | None,
    options: EngineOptions,
) -> npt.NDArray[np.float32]:
    """Images (N, C, H, W) uint8 -> probability of the positive class (N,)."""
    torch.set_num_threads(options.num_threads)
    logits = Scorer(config, load_network(config, start, options.device), sat).logits(images)
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


@torch.inference_mode()
def features(
    config: RunConfig, network: Network, images: npt.NDArray[np.uint8], sat: ImageSet | None
) -> npt.NDArray[np.float32]:
    """Images (N, C, H, W) uint8 -> what the primary encoder makes of them, (N, 512), in evaluation."""
    encoder = network.primary_encoder.eval()
    device = next(network.parameters()).device
    intensity, size = Intensity(config, sat, device), config.training.batch_size
    parts = [torch.from_numpy(np.array(images[first : first + size])) for first in range(0, len(images), size)]
    found: list[Tensor] = [encoder(normalise(intensity(part.to(device)))).cpu() for part in parts]
    return torch.cat(found).numpy()


class Scorer:
    """Scores with one state of a network. The anchors' features are computed once, so make a new one after a step."""

    def __init__(self, config: RunConfig, network: Network, sat: ImageSet | None) -> None:
        self._batch_size = config.training.batch_size
        self._method: Method = load(config.method.name, config.method.options)
        self._network = network
        self._device = next(network.parameters()).device
        self._intensity = Intensity(config, sat, self._device)
        self._anchors = self._anchor_features(config, sat)

    @torch.inference_mode()
    def logits(self, images: npt.NDArray[np.uint8], each_batch: Callable[[], None] = lambda: None) -> Logits:
        """(N, C, H, W) uint8 -> (N,) primary logits. `each_batch` runs before each batch and may raise."""
        scores = np.empty(len(images), dtype=np.float32)
        for first in range(0, len(images), self._batch_size):
            each_batch()
            where = slice(first, first + self._batch_size)
            scores[where] = self._method.predict(self._network, self._prepare(images[where]), self._anchors).cpu()
        return scores

    @torch.inference_mode()
    def mixture_ratio(self, images: npt.NDArray[np.uint8]) -> float | None:
        """Does the mixture say anything about an image (`Network.mixture_ratio`)? None without fixed anchors."""
        anchors = self._method.partners(self._anchors)
        if anchors is None:
            return None
        firsts = range(0, len(images), self._batch_size)
        batches = (self._prepare(images[first : first + self._batch_size]) for first in firsts)
        ratio = self._network.mixture_ratio(batches, anchors)
        return None if ratio is None else ratio.item()

    def metrics(self, cases: ImageSet, each_batch: Callable[[], None] = lambda: None) -> ValidationMetrics:
        logits = self.logits(cases.images, each_batch)
        if not np.isfinite(logits).all():
            raise DivergedError(what="A score of the network")
        labels = np.asarray(cases.labels)
        return ValidationMetrics(
            auc=roc_auc(logits, labels),
            loss=log_loss(logits, labels),
            num_cases=len(labels),
            one_answer=is_one_answer(logits),
        )

    @torch.inference_mode()
    def _anchor_features(self, config: RunConfig, sat: ImageSet | None) -> Tensor | None:
        """Of the run's K fixed, class-balanced SAT images (methods.md H8); None where there is no second task."""
        if not config.has_anchors:
            return None
        if sat is None:
            reason = f"the {config.architecture} network scores against the shared anchor task; give its SAT bundle"
            raise ConfigError(reason=reason)
        return self._network.anchor_features(self._prepare(anchor_images(config, sat)))

    def _prepare(self, images: npt.NDArray[np.uint8]) -> Tensor:
        return normalise(self._intensity(torch.from_numpy(np.array(images)).to(self._device)))
