"""The batches of a round: keyed by (seed, node, round, epoch or step, purpose), so any one can be made at any time.

Beside B primary images stand, as the run says, B of the SAT as the network's second input (mmoe), K fixed ones of it
as they are stored (relative), B of a SAT of the same task in the same batch, B more of the site's own, B in the styles
of two sites, or none. The primary ones are the same in all six, save that a run may ask for them in other sites' styles
(styled_batches.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hsl_model.augment import augment, normalise
from hsl_model.data import ImageSet, SiteData
from hsl_model.device import images_on_device
from hsl_model.intensity import Intensity
from hsl_model.network import choose_anchors
from hsl_model.photometric import photometric
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.round_work import RoundSpec
from hsl_model.sampler import Indices, balance, balance_cells, epoch_order, num_images, num_steps, site_classes
from hsl_model.seeding import Key, generator
from hsl_model.styled_batches import StyledImages


@dataclass(frozen=True)
class Batch:
    """What a step trains on. Images (B, C, H, W) float32 normalised; labels (B,) float32 of 0 and 1.

    `sat_images` is the network's second input, None where it has none: one for each primary image or, `for_all`, K
    anchors that every image is seen beside. `sat_labels` is None where it has no loss. Added images stand behind the
    primary ones, which are the same with and without them. `views`: B images, each in the styles of two sites.
    """

    images: Tensor
    labels: Tensor
    sat_images: Tensor | None = None
    sat_labels: Tensor | None = None
    for_all: bool = False
    views: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def part(self, where: slice) -> "Batch":
        """A micro-batch; anchors stand beside each."""
        sat_images = self.sat_images if self.sat_images is None or self.for_all else self.sat_images[where]
        sat_labels = None if self.sat_labels is None else self.sat_labels[where]
        views = None if self.views is None else (self.views[0][where], self.views[1][where])
        return Batch(self.images[where], self.labels[where], sat_images, sat_labels, self.for_all, views)


class PairLoader:
    """Pairs of a primary and a second batch (methods.md 2.2). Holds nothing that a resume would need."""

    def __init__(self, spec: RoundSpec, data: SiteData, device: str, *, cached: bool = False) -> None:
        """`cached`: the images that steps draw from lie on the device, where they fit."""
        config = spec.config
        check_data(config, data)
        self._spec, self._data, self._device = spec, data, device
        self._intensity = Intensity(config, data.sat, device)
        self._has_pairs = config.architecture == "mmoe"
        self._second, self._second_is = _second(config, data)
        self._styles = StyledImages(spec, data, device)
        self._num_images = num_images(
            config.training.images_per_epoch, len(data.training), len(data.sat) if data.sat is not None else 0
        )
        self._whole_epoch = num_steps(self._num_images, config.training.batch_size)
        self.steps_per_epoch = config.training.fuse_every_steps or self._whole_epoch
        drawn_from = [cases for cases in (data.training, self._second) if cases is not None]
        self._at_hand = images_on_device(drawn_from, device) if cached else {}
        self._anchors = self._beside_all()
        self._begun: tuple[Key, ...] = ()
        self._primary_order: Indices = np.empty(0, dtype=np.int64)
        self._second_order: Indices = np.empty(0, dtype=np.int64)

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of `epoch`, both counted from 0 within the round and within the epoch."""
        where, key = self._step(epoch, step)
        turned, labels = self._turned(self._data.training, self._primary_order[where], key, "primary")
        styled = self._styles.restyled(turned, key) if self._styles.restyles_own else turned
        images = self._toned(styled, key, "primary")
        if self._styles.views_of == "own":
            return Batch(images, labels, views=self._views(turned, key))
        if self._anchors is not None:
            return Batch(images, labels, self._anchors, for_all=True)
        if self._second is None:
            return Batch(images, labels)
        others, other_labels = self._turned(self._second, self._second_order[where], key, self._second_is)
        if self._styles.views_of == "sat":
            return Batch(images, labels, views=self._views(others, key))
        second = self._toned(others, key, self._second_is), other_labels
        if self._has_pairs:
            return Batch(images, labels, *second)
        return Batch(torch.cat((images, second[0])), torch.cat((labels, second[1])))

    def second_view(self, epoch: int, step: int) -> Tensor:
        """The primary images of that batch once more, changed by streams of their own: for learning without labels."""
        where, key = self._step(epoch, step)
        turned, _ = self._turned(self._data.training, self._primary_order[where], key, "second view")
        return self._toned(turned, key, "second view")

    def epoch_of_run(self, epoch: int, step: int) -> int:
        """Counted from 0 over all rounds."""
        round_number, epoch, _ = self._place(epoch, step)
        return (round_number - 1) * self._spec.config.training.local_epochs + epoch

    def _place(self, epoch: int, step: int) -> tuple[int, int, int]:
        """(round, epoch, step) that key the streams. With `fuse_every_steps` those of a run that fuses once an epoch:
        the draws do not depend on how often it does."""
        every = self._spec.config.training.fuse_every_steps
        if every is None:
            return self._spec.round_number, epoch, step
        epochs, rest = divmod((self._spec.round_number - 1) * every + step, self._whole_epoch)
        return epochs + 1, 0, rest

    def _step(self, epoch: int, step: int) -> tuple[slice, tuple[Key, ...]]:
        """A batch's places in the orders of its epoch, which are drawn here, and the key of its streams."""
        round_number, epoch, step = self._place(epoch, step)
        of_round = (*self._spec.key[:2], round_number)
        self._begin_epoch((*of_round, epoch))
        size = self._spec.config.training.batch_size
        where = slice(step * size, min((step + 1) * size, self._num_images))
        return where, (*of_round, epoch * self._whole_epoch + step)

    def _begin_epoch(self, key: tuple[Key, ...]) -> None:
        if key == self._begun:
            return
        self._begun = key
        self._primary_order = self._own_order("primary order", "balance")
        if self._second is not None and self._second_is == "sat":
            self._second_order = epoch_order(len(self._second), self._num_images, generator(*key, "sat order"))
        elif self._second is not None:
            self._second_order = self._own_order("added order", "added balance")

    def _own_order(self, order: str, balancing: str) -> Indices:
        """Of the site's own images, by streams of these two purposes."""
        labels, sites = np.asarray(self._data.training.labels), self._data.training.sites
        found = epoch_order(len(labels), self._num_images, generator(*self._begun, order))
        if not self._spec.config.training.balanced_sampler:
            return found
        random = generator(*self._begun, balancing)
        if sites is None:
            return balance(found, labels, random)
        return balance_cells(found, site_classes(sites, labels), random)

    def _beside_all(self) -> Tensor | None:
        """What the relative network sees at every step, as it is stored."""
        config, sat = self._spec.config, self._data.sat
        if config.architecture != "relative" or sat is None:
            return None
        return normalise(self._intensity(torch.from_numpy(anchor_images(config, sat)).to(self._device)))

    def _pixels(self, cases: ImageSet, indices: Indices) -> Tensor:
        """(B, C, H, W) uint8 on the device."""
        if (held := self._at_hand.get(id(cases))) is not None:
            return held[torch.from_numpy(indices).to(self._device)]
        return torch.from_numpy(np.ascontiguousarray(cases.images[indices])).to(self._device)

    def _turned(self, cases: ImageSet, indices: Indices, key: tuple[Key, ...], task: str) -> tuple[Tensor, Tensor]:
        """Images in [0, 1], rotated and flipped, and their labels."""
        images = self._intensity(self._pixels(cases, indices))
        if self._spec.config.training.augment:
            images = augment(images, *key, f"augment {task}")
        return images, torch.from_numpy(cases.labels[indices].astype(np.float32)).to(self._device)

    def _toned(self, images: Tensor, key: tuple[Key, ...], task: str) -> Tensor:
        strength = self._spec.config.training.photometric
        return normalise(photometric(images, strength, *key, f"photometric {task}") if strength else images)

    def _views(self, images: Tensor, key: tuple[Key, ...]) -> tuple[Tensor, Tensor]:
        one, other = self._styles.views(images, key)
        return normalise(one), normalise(other)


def anchor_images(config: RunConfig, sat: ImageSet) -> npt.NDArray[np.uint8]:
    """(K, C, H, W): the same at every node, step and scoring of a run."""
    return sat.images[choose_anchors(sat.labels, config.training.num_anchors, config.seed)]


def _second(config: RunConfig, data: SiteData) -> tuple[ImageSet | None, str]:
    """What is drawn beside the primary images, and the name its streams have."""
    if config.architecture == "relative":
        return None, "anchors"
    if config.shows_sat:
        return data.sat, "sat"
    return (data.training if config.training.added_images == "own" else None), "added"


def check_data(config: RunConfig, data: SiteData) -> None:
    """Refuse data that is not of the run's task, before a long training starts on it."""
    task = config.task
    expected = (task.channels, task.height, task.width)
    sets = {"training": data.training, "validation": data.validation, "test": data.test, "SAT": data.sat}
    for name, cases in sets.items():
        if cases is not None and cases.images.shape[1:] != expected:
            raise ConfigError(reason=f"the {name} images are {cases.images.shape[1:]}; the task says {expected}")
    if config.uses_sat and (data.sat is None or not len(data.sat)):
        raise ConfigError(reason="this run needs the shared anchor task; bind this site's SAT bundle")
    if config.has_anchors and data.sat is not None:
        choose_anchors(data.sat.labels, config.training.num_anchors, config.seed)  # refuses a SAT that is too small
