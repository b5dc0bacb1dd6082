"""What the engine trains on: plain arrays, so that this library knows no file format."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (N, C, H, W) uint8, possibly memory-mapped, and labels (N,) uint8, 1 = positive class. Nobody writes to
    them, and a set equals none but itself: what is told of it can be kept (`functools.lru_cache`).

    `sites` (N,): where several sites' images lie together, the number of each image's site. A balanced sampler then
    evens out site x class instead of class.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    sites: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {self.images.shape}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"{self.images.shape[0]} images but labels of shape {self.labels.shape}")
        if self.sites is not None and self.sites.shape != self.labels.shape:
            raise ValueError(f"{self.labels.shape[0]} images but sites of shape {self.sites.shape}")

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclass(frozen=True)
class SiteData:
    """A site's split data and the shared anchor task (None where the network has no second task)."""

    training: ImageSet
    validation: ImageSet
    test: ImageSet
    sat: ImageSet | None
