"""How a site shows images in all sites' styles: beside the primary batch, or in its place. Method `styled` asks for it.

A site knows its own style, and from round 2 on those that the manifests of the round before told. Styles are drawn for
each image by streams of their own, so the images themselves, their order, rotations and flips stay those of other runs.
"""

import numpy as np
import torch
from torch import Tensor

from hsl_model.data import SiteData
from hsl_model.protocol.methods import method_facts
from hsl_model.round_work import RoundSpec
from hsl_model.seeding import Key, generator
from hsl_model.style import Restyler, style_of


class StyledImages:
    """What the run's options ask for: `restyled` and `views` of images (B, C, H, W) in [0, 1], turned but not toned."""

    def __init__(self, spec: RoundSpec, data: SiteData, device: str) -> None:
        method = spec.config.method
        self.views_of = method.views_of
        self.restyles_own = method.options.get("restyle_own") is True
        if not method_facts(method.name).shares_style:
            return
        styles = {**spec.styles, spec.node_id: style_of(data.training)}
        known = [styles[node] for node in sorted(styles)]
        self._num_styles = len(known)
        if self.restyles_own or self.views_of == "own":
            self._own = Restyler(data.training, known, device)
        if self.views_of == "sat" and data.sat is not None:
            self._anchors = Restyler(data.sat, known, device)

    def restyled(self, images: Tensor, key: tuple[Key, ...]) -> Tensor:
        """The site's own images, each in the style of a random site, its own among them."""
        which = generator(*key, "style primary").integers(0, self._num_styles, len(images))
        return self._own.show(images, which, *key, "style noise primary")

    def views(self, images: Tensor, key: tuple[Key, ...]) -> tuple[Tensor, Tensor]:
        """Each image in the styles of two sites; of one site twice, differing in noise, while no other is known."""
        restyler = self._anchors if self.views_of == "sat" else self._own
        random = generator(*key, "styles of views")
        first = random.integers(0, self._num_styles, len(images))
        step = random.integers(1, self._num_styles, len(images)) if self._num_styles > 1 else np.zeros_like(first)
        which = np.concatenate((first, (first + step) % self._num_styles))
        one, other = restyler.show(torch.cat((images, images)), which, *key, "style noise views").chunk(2)
        return one, other
