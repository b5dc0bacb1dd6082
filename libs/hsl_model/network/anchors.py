"""Anchors: fixed, class-balanced SAT images beside which a single image is scored (methods.md H8).

The network wants a pair, and a score must depend neither on chance nor on the batch an image is in. So every image is
paired with the same K anchors, whose features are computed once for a state of the weights, and its score is the mean
logit. All nodes hold the same SAT bundle, and so choose the same anchors; `hsl_model.scoring.Scorer` caches their
features.

The relative network goes further: anchors are all that its head knows an image by, in training too. Relative
representations: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023,
arXiv 2209.15430.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hsl_model.protocol.errors import ConfigError
from hsl_model.seeding import generator


def choose_anchors(labels: npt.NDArray[np.uint8], num_anchors: int, seed: int) -> npt.NDArray[np.intp]:
    """Sorted indices of `num_anchors` SAT images, half of each class (one more negative where the number is odd).

    The same at every node of a run, which share the SAT and the run's `seed`. Raises `ConfigError` where a class has
    too few images.
    """
    chosen: list[npt.NDArray[np.intp]] = []
    for label, count in ((0, num_anchors - num_anchors // 2), (1, num_anchors // 2)):
        candidates = np.flatnonzero(np.asarray(labels) == label)
        if len(candidates) < count:
            raise ConfigError(
                reason=f"the SAT has {len(candidates)} images of class {label}, but {count} anchors of it are wanted; "
                "build a larger SAT, or set training.num_anchors lower"
            )
        chosen.append(generator(seed, "anchors", label).permutation(candidates)[:count])
    return np.sort(np.concatenate(chosen))


class AnchorCosines(nn.Module):
    """Features (B, F) beside those of K anchors (K, F) -> scale x cosines (B, K), each cosine in [-1, 1].

        c_ik = cos(h_i - m, a_k - m),   m = 1/K sum_k a_k

    Features of a ReLU are never negative, so without m all of them point nearly the same way. m depends on nothing but
    the anchors: a row is that of its image whoever else is in the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, features: Tensor, anchors: Tensor) -> Tensor:
        return self.scale * self.cosines(features, anchors)

    def cosines(self, features: Tensor, anchors: Tensor) -> Tensor:
        centre = anchors.mean(dim=0)
        images, beside = (functional.normalize(found - centre, dim=1) for found in (features, anchors))
        return images @ beside.T
