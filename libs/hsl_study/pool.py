"""A study's data set: every usable image of a source, its label, domain, patient, and what may not be parted.

Read, cleaned and cached exactly as a site's own images are (`hsl_data.site`): unreadable images, copies, conflicting
labels and images of the SAT are gone before anything is drawn. The site's own split is not used here.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hsl_data.binding import SiteBinding
from hsl_data.decode import pixel_digest
from hsl_data.report import REASONS, TruthReport
from hsl_data.sat import sat_digest
from hsl_data.site import prepare_site
from hsl_data.split import SPLITS
from hsl_model.checkpoint import read_tensors
from hsl_model.data import ImageSet
from hsl_model.protocol.config import NodeId, TaskConfig
from hsl_study.arm_sat import OWN
from hsl_study.partition import PoolCase

Pixels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]  # of images in the pool


@dataclass(frozen=True)
class Pool:
    """`cases[i]` describes `images[i]`: (N, C, H, W) uint8, labels (N,). `group_numbers` (N,): equal for one group.

    `sat_files`: the study's bundles by name. `num_in_sat`: images left out, as a bundle has one of their group.
    """

    images: Pixels
    cases: tuple[PoolCase, ...]
    report: TruthReport
    sat: ImageSet | None
    sat_digest: str | None
    sat_of: Mapping[NodeId, ImageSet] = field(default_factory=dict)  # where an arm's nodes hold their own
    sat_files: Mapping[str, Path] = field(default_factory=dict)
    num_in_sat: int = 0

    @cached_property
    def labels(self) -> Pixels:
        return np.array([case.label for case in self.cases], dtype=np.uint8)

    @cached_property
    def group_numbers(self) -> Positions:
        _, numbers = np.unique([case.group for case in self.cases], return_inverse=True)
        return numbers.astype(np.int64)

    def lines(self) -> list[str]:
        """What of the source is used, and why the rest is not."""
        left_out = [f"{count} {REASONS[reason]}" for reason, count in self.report.not_used.items() if count]
        if self.num_in_sat:
            left_out.append(f"{self.num_in_sat} that a shared anchor task has, or others of their group")
        used = f"{self.report.source}: {self.report.num_found} images found, {len(self.cases)} usable"
        return [f"{used}. Not used: {'; '.join(left_out) or 'none'}."]

    def names_of(self, positions: Iterable[int]) -> list[str]:
        return [self.cases[at].name for at in positions]

    def sat_at(self, node: NodeId) -> ImageSet | None:
        return self.sat_of.get(node, self.sat)

    def bundle(self, name: str) -> ImageSet:
        return read_bundle(self.sat_files[name])

    def subset(self, positions: tuple[int, ...]) -> ImageSet:
        where = np.array(positions, dtype=np.int64)
        return ImageSet(self.images[where], self.labels[where])


def load_pool(binding: SiteBinding, task: TaskConfig, sats: Mapping[str, Path], cache: Path) -> Pool:
    """`sats`: every bundle of the study by name; an image that lies in one, and its whole group, is in no arm's data.

    Raises the errors of `hsl_data.errors`. A second call maps the cache instead of decoding.
    """
    prepared = prepare_site(binding, task, None, None, cache)
    parts = {"training": prepared.data.training, "validation": prepared.data.validation, "test": prepared.data.test}
    images = np.concatenate([parts[split].images for split in SPLITS])
    rows = _listing(prepared.listing)
    if [row["split"] for row in rows] != [split for split in SPLITS for _ in range(len(parts[split]))]:
        raise OSError(f"{prepared.listing} does not list the images beside it; delete its folder, it is made anew")
    cases = tuple(
        PoolCase(row["name"], int(row["label"]), row["domain"], row["group"], pixel_digest(image), row["part"] or None)
        for row, image in zip(rows, images, strict=True)
    )
    anchors = {pixel_digest(image) for path in sats.values() for image in read_bundle(path).images}
    shown = {case.group for case in cases if case.pixel_digest in anchors}
    kept = [at for at, case in enumerate(cases) if case.group not in shown]
    own = read_bundle(sats[OWN]) if OWN in sats else None
    return Pool(
        images=images[kept] if shown else images,
        cases=tuple(cases[at] for at in kept),
        report=prepared.report,
        sat=own,
        sat_digest=None if own is None else sat_digest(own),
        sat_files=sats,
        num_in_sat=len(cases) - len(kept),
    )


def read_bundle(path: Path) -> ImageSet:
    tensors = read_tensors(path)
    return ImageSet(tensors["images"], tensors["labels"])


def _listing(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
