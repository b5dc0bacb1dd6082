"""A site's acquisition in 35 numbers, and images as a site with other numbers would have stored them.

    style of a site    mean over its images, either class weighing the same, so that prevalence is not taken for a
                       machine: 33 quantiles of an image's pixels, noise n, sharpness sqrt((d1 - 2 n^2) / (d2 - 2 n^2));
                       d1 and d2 are the mean squared steps between next pixels and between every second
    restyled image     blur -> tone curve from quantiles to quantiles -> noise -> clip to [0, 1]

Blur and noise are only added, as much as the images at hand lack of the other's: what a machine has taken away no
number gives back. In one's own style an image stays as it is. All channels share one curve. The noise estimate is
Immerkaer's ("Fast noise variance estimation", Computer Vision and Image Understanding 64:300-302, 1996), with a median
in place of the mean, so that edges count less.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hsl_model.augment import to_unit
from hsl_model.data import ImageSet
from hsl_model.protocol.manifest import SiteStyle
from hsl_model.seeding import Key, torch_generator

Values = npt.NDArray[np.float64]

_LEVELS = np.linspace(0.0, 1.0, 33)
_LOOKED_AT, _FITTED_ON = 256, 16  # images of either class at most: for a style, and for how much blur makes one
_BLURS = np.linspace(0.0, 0.06, 7)  # sd over the shorter side, from none to what is tried at most
_TABLE = 1024  # steps of a tone curve as it is applied, straight between them
_SAME_TONE = 1.0 / 256.0  # quantiles as close as this are one point of a curve: its slope there would be chance
_NO_NOISE = 1.0 / 1024.0  # a quarter of a grey level: less is not worth drawing
_SD_OF_MEDIAN = 1.4826  # sd of a normal over the median of its distance from zero
_RESIDUAL_NORM = 6.0  # what (1, -2, 1) x (1, -2, 1) makes of white noise with sd 1


@lru_cache(maxsize=16)
def style_of(cases: ImageSet) -> SiteStyle:
    """Of at least one image; up to 256 of either class are looked at, evenly over the set."""
    found = np.mean([_described(to_unit(torch.from_numpy(part))) for part in _by_class(cases, _LOOKED_AT)], axis=0)
    *quantiles, noise, sharpness = (round(float(value), 4) for value in found)
    return SiteStyle(quantiles=tuple(quantiles), noise=noise, sharpness=sharpness)


class Restyler:
    """From how `cases` are stored to how each site of `styles`, in this order, stores its own."""

    def __init__(self, cases: ImageSet, styles: Sequence[SiteStyle], device: str) -> None:
        own, self._device = style_of(cases), device
        self._tables = self._tensor(_curves(own, styles))  # (S, 1025)
        sample = to_unit(torch.from_numpy(np.concatenate(_by_class(cases, _FITTED_ON))).to(device))
        tried = [_described(_softer(sample, *self._matrices(sample, np.array([blur])))) for blur in _BLURS]
        wanted = [style.sharpness / own.sharpness if own.sharpness else 1.0 for style in styles]
        blurs = _blurs(np.array(wanted), np.array([found[-1] for found in tried]))
        self._down, self._across = self._matrices(sample, blurs)  # (S, H, H); (S, W, W)
        scale = own.noise / tried[0][-2] if tried[0][-2] else 1.0  # of the sample to all images
        lacks = [self._lacking(sample, at, style, scale) for at, style in enumerate(styles)]
        self._noises = self._tensor(np.array(lacks))

    def show(self, images: Tensor, which: npt.NDArray[np.int64], *key: Key) -> Tensor:
        """Images (B, C, H, W) in [0, 1], each in the style at `which` (B,); the stream `key` draws the noise."""
        random = torch_generator(*key, device=str(images.device))
        noise = torch.randn(images.shape, generator=random, device=images.device)
        amounts = self._noises[torch.from_numpy(which).to(self._device)].view(-1, 1, 1, 1)
        return (self._toned(images, which) + noise * amounts).clamp(0.0, 1.0)

    def _toned(self, images: Tensor, which: npt.NDArray[np.int64]) -> Tensor:
        """Blurred, then through the curves."""
        places = torch.from_numpy(which).to(self._device)
        values = _softer(images, self._down[places], self._across[places]).flatten(1) * _TABLE
        left = values.long().clamp(0, _TABLE - 1)
        low, high = (self._tables[places].gather(1, at) for at in (left, left + 1))
        return torch.lerp(low, high, values - left).clamp(0.0, 1.0).view_as(images)

    def _lacking(self, sample: Tensor, at: int, style: SiteStyle, scale: float) -> float:
        """sd of the noise to add, so that blurred and toned images have as much as the style tells."""
        left = scale * _described(self._toned(sample, np.full(len(sample), at)))[-2]
        lacks = float(np.sqrt(max(style.noise**2 - left**2, 0.0)))
        return lacks if lacks > _NO_NOISE else 0.0

    def _matrices(self, images: Tensor, blurs: Values) -> tuple[Tensor, Tensor]:
        """What columns and rows are multiplied by, for each of `blurs`, shares of the shorter side."""
        height, width = images.shape[2:]
        widths = blurs * min(height, width)
        return self._tensor(_gaussians(widths, height)), self._tensor(_gaussians(widths, width))

    def _tensor(self, values: Values) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def _by_class(cases: ImageSet, most: int) -> list[npt.NDArray[np.uint8]]:
    """The images of each class that there is, at most so many."""
    labels = np.asarray(cases.labels)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [np.ascontiguousarray(cases.images[part[:: -(-len(part) // most)]]) for part in places]


def _described(images: Tensor) -> Values:
    """33 quantiles, noise and sharpness of images (N, C, H, W) in [0, 1]."""
    values = images.cpu().numpy().astype(np.float64)
    quantiles = np.quantile(values.reshape(len(values), -1), _LEVELS, axis=1).mean(axis=1)
    residual = np.diff(np.diff(values, 2, axis=2), 2, axis=3).reshape(len(values), -1)
    noises = _SD_OF_MEDIAN / _RESIDUAL_NORM * np.median(np.abs(residual), axis=1)
    of_noise = 2.0 * np.square(noises).mean()
    near, far = (_step(values, by) - of_noise for by in (1, 2))
    sharpness = np.sqrt(max(near, 0.0) / far) if far > 0.1 * of_noise else 1.0  # of noise alone nothing is blurred
    return np.array([*quantiles, noises.mean(), min(sharpness, 1.0)])


def _step(values: Values, by: int) -> float:
    """Mean square of the steps between pixels so far apart, across and down."""
    across, down = values[..., by:] - values[..., :-by], values[..., by:, :] - values[..., :-by, :]
    return float(np.square(across).mean() + np.square(down).mean()) / 2.0


def _curves(own: SiteStyle, styles: Sequence[SiteStyle]) -> Values:
    """What each style makes of the tones 0, 1/1024, ..., 1: (S, 1025). Beyond the outer quantiles the slope is 1."""
    tones = np.array(own.quantiles)
    shown = np.array([style.quantiles for style in styles])
    first = [0]  # of each run of tones that are one
    for place in range(1, len(tones)):
        if tones[place] - tones[first[-1]] >= _SAME_TONE:
            first.append(place)
    counts = np.diff([*first, len(tones)])
    tones = np.add.reduceat(tones, first) / counts
    shown = np.add.reduceat(shown, first, axis=1) / counts
    points = [tones[0] - 2.0, *tones, tones[-1] + 2.0]
    grid = np.linspace(0.0, 1.0, _TABLE + 1)
    return np.array([np.interp(grid, points, [curve[0] - 2.0, *curve, curve[-1] + 2.0]) for curve in shown])


def _blurs(wanted: Values, found: Values) -> Values:
    """Widths at which sharpness falls to the `wanted` shares of itself; `found` is it at each of `_BLURS`."""
    falling = np.minimum.accumulate(found / found[0]) if found[0] else np.ones(len(found))
    widths: Values = np.interp(-wanted, -falling, _BLURS) * (wanted < 1.0)
    return widths


def _gaussians(widths: Values, size: int) -> Values:
    """(S, size, size): row i blurs to pixel i, with these sds in pixels; beyond the edge lies the edge."""
    reach = int(np.ceil(3.0 * widths.max()))
    places, pixels = np.arange(-reach, size + reach), np.arange(size)
    distances = (pixels[:, None] - places) / np.maximum(widths, 1e-3)[:, None, None]
    weights = np.exp(-0.5 * np.square(distances))
    within = np.clip(places, 0, size - 1)[:, None] == pixels  # which pixel stands at a place
    rows: Values = (weights / weights.sum(axis=2, keepdims=True)) @ within.astype(np.float64)
    return rows


def _softer(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    return down[:, None] @ images @ across[:, None].transpose(2, 3)
