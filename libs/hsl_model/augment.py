"""From stored bytes to what the network sees: scale, light augmentation, normalisation. One transform for all data.

Rotation by up to 15 degrees and a horizontal flip, as the authors train (methods.md 1.1), in one resampling of the
tensor. Corners that turn in from outside are black, as they are in a radiograph.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hsl_model.seeding import Key, generator

MAX_ROTATION_DEGREES = 15.0
_COLOUR_MEAN, _COLOUR_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for pretrained encoders
_GREY_MEAN, _GREY_SD = (0.449,), (0.226,)  # their means over the colours


def to_unit(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) -> float32 in [0, 1]."""
    return images.to(torch.float32) / 255.0


def normalise(images: Tensor) -> Tensor:
    """[0, 1] -> about zero mean and unit spread."""
    colour = images.shape[1] == 3
    mean = torch.tensor(_COLOUR_MEAN if colour else _GREY_MEAN, device=images.device).view(1, -1, 1, 1)
    spread = torch.tensor(_COLOUR_SD if colour else _GREY_SD, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / spread


def augment(images: Tensor, *key: Key) -> Tensor:
    """Rotate and flip each image (B, C, H, W) in [0, 1] by amounts drawn from the stream `key`."""
    count, _, height, width = images.shape
    random = generator(*key)
    angles = torch.from_numpy(random.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES, count)) * (math.pi / 180.0)
    flips = torch.from_numpy(1.0 - 2.0 * random.integers(0, 2, count))
    theta = torch.zeros(count, 2, 3, dtype=torch.float64)
    # output (x, y) in [-1, 1] reads input theta @ (x, y, 1); the ratios keep a rotation rigid on oblong images
    theta[:, 0, 0] = flips * torch.cos(angles)
    theta[:, 0, 1] = -torch.sin(angles) * (height / width)
    theta[:, 1, 0] = flips * torch.sin(angles) * (width / height)
    theta[:, 1, 1] = torch.cos(angles)
    grid = functional.affine_grid(theta.float().to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
