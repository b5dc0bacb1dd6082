"""Acquisition skew: the same films as machines of different hospitals would have stored them.

    x in [0, 1] -> Gaussian blur -> noise -> tone curve -> contrast about mid-grey -> clip -> uint8

An acquisition is fixed, and its noise is keyed by (acquisition, image): an image has one copy under each, whatever the
seed, the arm or the order of files. Labels are untouched, so what differs between sites is the machine alone.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import ndimage

from hsl_model.protocol.config import Message, NodeId
from hsl_model.seeding import generator

Pixels = npt.NDArray[np.uint8]
Point = tuple[float, float]

_MID_GREY = 0.5
_AT_A_TIME = 1024  # images in float32 at once, so that a large set does not take four times its memory


class Acquisition(Message):
    """One machine. `curve`: points of the exposure curve in [0, 1], rising, straight between them."""

    curve: tuple[Point, ...] = ((0.0, 0.0), (1.0, 1.0))
    blur: float = Field(default=0.0, ge=0, le=20, description="sd of the Gaussian, percent of the image's width")
    noise: float = Field(default=0.0, ge=0, le=128, description="sd, grey levels of 255, before the curve")
    contrast: float = Field(default=1.0, gt=0, le=4, description="slope about mid-grey, after the curve")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        inside = all(0.0 <= value <= 1.0 for point in self.curve for value in point)
        rises = all(one[0] < other[0] and one[1] <= other[1] for one, other in pairwise(self.curve))
        if len(self.curve) < 2 or not inside or not rises:
            raise ValueError(
                "curve: two or more points in [0, 1]; inputs rise from each to the next, outputs never fall"
            )
        return self


BUILT_IN: Mapping[str, Acquisition] = {
    "reference": Acquisition(noise=5),
    "bright": Acquisition(curve=((0, 0.1), (0.08, 0.36), (0.25, 0.66), (0.55, 0.88), (1, 1)), noise=8, contrast=0.9),
    "dark": Acquisition(curve=((0, 0), (0.35, 0.07), (0.65, 0.28), (0.85, 0.58), (1, 0.9)), noise=10, contrast=1.1),
    "soft": Acquisition(curve=((0, 0.1), (1, 0.9)), blur=5, noise=4, contrast=0.6),
    "hard": Acquisition(curve=((0, 0), (0.35, 0.12), (0.65, 0.88), (1, 1)), noise=18, contrast=1.3),
    # no site of the built-in scenario has these two
    "film": Acquisition(curve=((0, 0.12), (0.25, 0.2), (0.5, 0.55), (0.75, 0.88), (1, 0.93)), blur=3, noise=14),
    "portable": Acquisition(curve=((0, 0), (0.45, 0.2), (1, 0.8)), blur=4, noise=20, contrast=0.75),
}
BUILT_IN_SITES = ("reference", "bright", "dark", "soft", "hard")
BUILT_IN_UNSEEN = ("film", "portable")


class AcquisitionPlan(Message):
    """Which site has which machine. `unseen`: machines that no site has, for scoring only."""

    of_site: dict[NodeId, str]
    unseen: tuple[str, ...] = ()
    known: dict[str, Acquisition]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if unknown := sorted({*self.of_site.values(), *self.unseen} - set(self.known)):
            raise ValueError(f"unknown acquisitions {', '.join(unknown)}; there are {', '.join(self.known)}")
        if both := sorted(set(self.of_site.values()) & set(self.unseen)):
            raise ValueError(f"{', '.join(both)}: an unseen acquisition belongs to no site")
        return self

    @property
    def seen(self) -> tuple[str, ...]:
        """Every acquisition that a site has, once, in the order of `known`."""
        return tuple(name for name in self.known if name in self.of_site.values())

    def lines(self) -> list[str]:
        sites = ", ".join(f"{site} {name}" for site, name in self.of_site.items())
        return [f"Acquisitions: {sites}. For scoring only: {', '.join(self.unseen) or 'none'}."]

    def stored(self, name: str, images: Pixels, image_names: Sequence[str]) -> Pixels:
        return stored(self.known[name], name, images, image_names)


def stored(acquisition: Acquisition, name: str, images: Pixels, image_names: Sequence[str]) -> Pixels:
    """Images (N, C, H, W) as acquisition `name` stores them, the same shape. Names, one an image, key the noise."""
    found = np.empty(images.shape, dtype=np.uint8)
    for first in range(0, len(images), _AT_A_TIME):
        where = slice(first, first + _AT_A_TIME)
        found[where] = _stored(acquisition, name, images[where], image_names[where])
    return found


def _stored(acquisition: Acquisition, name: str, images: Pixels, image_names: Sequence[str]) -> Pixels:
    values = images.astype(np.float32) / 255.0
    if acquisition.blur:
        width = acquisition.blur / 100.0 * images.shape[3]
        values = ndimage.gaussian_filter(values, sigma=(0, 0, width, width), mode="nearest")
    if acquisition.noise:
        shape = images.shape[1:]
        draws = [generator("acquisition", name, one).standard_normal(shape, np.float32) for one in image_names]
        values = values + np.stack(draws) * np.float32(acquisition.noise / 255.0)
    inputs, outputs = zip(*acquisition.curve, strict=True)
    values = (np.interp(values, inputs, outputs) - _MID_GREY) * acquisition.contrast + _MID_GREY
    grey: Pixels = np.rint(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
    return grey
