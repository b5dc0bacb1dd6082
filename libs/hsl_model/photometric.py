"""Photometric augmentation: each image as another machine might have stored it. A run asks for it, or it is off.

    x in [0, 1] -> blur -> gamma -> contrast about its own mean -> brightness -> noise -> clip to [0, 1]

Amounts are drawn for each image by streams of their own purpose, so that rotations and flips stay those of runs
without it. `strength` multiplies every range; with 1 they are

    blur         Gaussian, sd uniform in 0..2 % of the shorter side
    gamma        exponent exp(u), u uniform in -0.5..0.5
    contrast     factor exp(u), u uniform in -0.4..0.4
    brightness   uniform in -0.15..0.15, added
    noise        Gaussian, sd uniform in 0..0.05, every pixel and channel by itself
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hsl_model.seeding import Key, generator, torch_generator

_BLUR, _LOG_GAMMA, _LOG_CONTRAST, _BRIGHTNESS, _NOISE = 0.02, 0.5, 0.4, 0.15, 0.05
_NO_BLUR = 1e-3  # pixels: a Gaussian this narrow is a single 1


def photometric(images: Tensor, strength: float, *key: Key) -> Tensor:
    """Images (B, C, H, W) in [0, 1] -> the same, each by amounts of its own drawn from the stream `key`."""
    count, device = len(images), images.device
    draws = torch.from_numpy(generator(*key).random((5, count, 1, 1, 1))).to(device, torch.float32)
    shorter = min(images.shape[2:])
    blurred = _blurred(images, draws[0].flatten() * (strength * _BLUR * shorter), strength * _BLUR * shorter)
    tones = blurred.clamp(0.0, 1.0) ** torch.exp(_between(draws[1], strength * _LOG_GAMMA))
    means = tones.mean(dim=(1, 2, 3), keepdim=True)
    shown = (tones - means) * torch.exp(_between(draws[2], strength * _LOG_CONTRAST)) + means
    noise = torch.randn(images.shape, generator=torch_generator(*key, "noise", device=str(device)), device=device)
    noisy = shown + _between(draws[3], strength * _BRIGHTNESS) + noise * draws[4] * (strength * _NOISE)
    return noisy.clamp(0.0, 1.0)


def _between(draws: Tensor, limit: float) -> Tensor:
    """From [0, 1) to [-limit, limit)."""
    return (2.0 * draws - 1.0) * limit


def _blurred(images: Tensor, widths: Tensor, widest: float) -> Tensor:
    """Each image with the Gaussian of its own `widths` (B,) in pixels; beyond the edge lies the edge."""
    count, channels, height, width = images.shape
    reach = min(math.ceil(3.0 * widest), height - 1, width - 1)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (places / widths.clamp_min(_NO_BLUR)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    planes = functional.pad(images.reshape(1, -1, height, width), (reach,) * 4, mode="replicate")
    planes = functional.conv2d(planes, kernels[:, :, None, :], groups=count * channels)
    planes = functional.conv2d(planes, kernels[:, :, :, None], groups=count * channels)
    return planes.view_as(images)
