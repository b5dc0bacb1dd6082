"""Grey levels before the network: as stored, or freed of what a machine's exposure and contrast made of them.

    given       x / 255
    equalised   r(x) = (pixels darker than x + half of those as dark) / all pixels        uniform on [0, 1]
    anchors     Q(r(x)), Q the mean quantile curve of the shared anchor task's images     a common reference

r counts an image's pixels, channels together. It is the same for an image and for its copy under any curve that rises
strictly, so neither tells the network which machine it comes from; where a curve or its rounding makes levels equal,
r moves by at most half the share of pixels that share the new level. An image of one level has r = 1/2. Q is what Nyúl
and Udupa (Magnetic Resonance in Medicine 42, 1999) average over training images, here over images that every site
holds already, with all quantiles for landmarks: nothing more leaves a site than without it.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hsl_model.augment import to_unit
from hsl_model.data import ImageSet
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError

LEVELS = 256
_AT_A_TIME = 64  # images: the ranks of a whole bundle would need eight times its bytes


class Intensity:
    """Images (B, C, H, W) uint8 on `device` -> float32 in [0, 1], in training and in scoring alike.

    `sat`: read where the run says `anchors`. Raises `ConfigError` where it is missing then.
    """

    def __init__(self, config: RunConfig, sat: ImageSet | None, device: str | torch.device) -> None:
        self._kind = config.training.intensity
        self._curve: Tensor | None = None
        if self._kind == "anchors":
            if sat is None or not len(sat):
                raise ConfigError(reason="training.intensity anchors needs the shared anchor task; give its SAT bundle")
            self._curve = torch.from_numpy(_curve_of(sat)).to(device, torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        if self._kind == "given":
            return to_unit(images)
        values = ranks(images)
        values = values if self._curve is None else _along(self._curve, values)
        return values.gather(1, images.flatten(1).long()).view(images.shape)


def ranks(images: Tensor) -> Tensor:
    """Images (B, C, H, W) uint8 -> (B, 256) float32: r of every level, also of those that an image has not."""
    counts = _counts(images)
    below = counts.cumsum(dim=1) - counts
    return (2 * below + counts).to(torch.float32) / (2 * images[0].numel())  # whole numbers below 2^24: exact


@lru_cache(maxsize=4)
def _curve_of(sat: ImageSet) -> npt.NDArray[np.float64]:
    """A second for a thousand images of 112 x 112 x 3, and every loader and scorer of a run asks."""
    return quantile_curve(sat.images)


def quantile_curve(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Images (N, C, H, W) -> (256,) in [0, 1]: the mean of their levels at the ranks (k + 1/2) / 256.

    Each image's levels stand at their r, straight lines between, so a curve that is one image's own gives it back.
    """
    wanted, found = (np.arange(LEVELS) + 0.5) / LEVELS, np.zeros(LEVELS)
    for first in range(0, len(images), _AT_A_TIME):
        part = torch.from_numpy(np.array(images[first : first + _AT_A_TIME]))
        for of_image, counts in zip(ranks(part).numpy(), _counts(part).numpy(), strict=True):
            there = np.flatnonzero(counts)
            found += np.interp(wanted, of_image[there], there / (LEVELS - 1.0))
    return found / len(images)


def _counts(images: Tensor) -> Tensor:
    """(B, 256): how many pixels of each image have each level."""
    number = torch.arange(len(images), device=images.device)[:, None]
    places = images.flatten(1).long() + LEVELS * number
    return torch.bincount(places.flatten(), minlength=LEVELS * len(images)).view(-1, LEVELS)


def _along(curve: Tensor, at: Tensor) -> Tensor:
    """`curve` (256,), given at the ranks (k + 1/2) / 256, at the ranks `at`: straight lines, level beyond the ends."""
    places = (at * LEVELS - 0.5).clamp(0.0, LEVELS - 1.0)
    low = places.floor().long().clamp_max(LEVELS - 2)
    share = places - low
    return curve[low] * (1.0 - share) + curve[low + 1] * share
