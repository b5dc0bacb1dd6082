"""Synthetic radiographs and ultrasound images: the demo and the tests need no download, and no patient.

* Bones: one or two long bones in soft tissue. A fracture is a dark oblique line through one bone, its far part stepped
  sideways. Whole bones show look-alikes (a growth plate, a fold of skin that crosses everything), so neither "a dark
  line" nor brightness gives the label away. Sites differ in exposure, noise, blur, body regions and share of fractures.
* Lesions (for the SAT): speckle, tissue layers and one dark lesion; benign is smooth and wide, malignant is spiculated
  and tall and casts a shadow.

Lengths are in half image sides: an image spans -1..1. Every image has its own generator keyed by (seed, site, patient,
image), so a set with more cases begins with the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hsl_data.images import Pixels
from hsl_data.readers.npz import NpzContent, write_npz
from hsl_data.sat import SatFacts, write_sat
from hsl_model.data import ImageSet

Field = npt.NDArray[np.float64]

CLASSES = ("intact", "fractured")  # positive class last
SAT_CLASSES = ("benign", "malignant")
MAX_SITES = 16


@dataclass(frozen=True)
class Region:
    """A body region: how many bones lie side by side, and their half-width."""

    name: str
    num_bones: int
    half_width: float


REGIONS = (
    Region("forearm", 2, 0.17),
    Region("leg", 1, 0.34),
    Region("finger", 1, 0.22),
    Region("shin", 2, 0.24),
    Region("arm", 1, 0.28),
)


@dataclass(frozen=True)
class PhantomSite:
    """What makes one hospital's images unlike another's."""

    index: int
    regions: tuple[Region, ...]
    positive_share: float
    gain: float
    gamma: float
    noise: float
    blur: int

    @property
    def name(self) -> str:
        return f"site-{self.index + 1}"


@dataclass(frozen=True)
class _Patient:
    region: Region
    fractured: bool
    place: float  # of the fracture or look-alike along the bone
    bone: int


def phantom_site(index: int, num_sites: int) -> PhantomSite:
    """Site `index` of `num_sites`: exposure and prevalence spread evenly, two body regions of its own."""
    spread = index / max(1, num_sites - 1)
    return PhantomSite(
        index=index,
        regions=(REGIONS[index % len(REGIONS)], REGIONS[(index + 1) % len(REGIONS)]),
        positive_share=(0.5, 0.3, 0.6, 0.4)[index % 4],
        gain=0.75 + 0.4 * spread,
        gamma=0.75 + 0.6 * ((index * 2) % max(2, num_sites)) / max(1, num_sites - 1),
        noise=0.03 + 0.03 * ((index + 1) % 3) / 2,
        blur=index % 2,
    )


def write_phantom_sites(folder: Path, num_sites: int, cases_per_site: int, size: int, seed: int) -> list[Path]:
    """One archive in the packaged layout per site. Equal arguments give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(num_sites):
        site = phantom_site(index, num_sites)
        path = folder / f"{site.name}.npz"
        write_npz(path, _archive(site, cases_per_site, size, seed))
        paths.append(path)
    return paths


def write_phantom_sat(path: Path, per_class: int, size: int, seed: int, channels: int = 1) -> SatFacts:
    """A SAT bundle of lesions, benign and malignant in turn."""
    labels = np.arange(2 * per_class, dtype=np.uint8) % 2
    images = np.stack([lesion(bool(label), size, _generator(seed, 1, i)) for i, label in enumerate(labels)])
    return write_sat(path, ImageSet(np.repeat(images[:, None], channels, axis=1), labels))


def write_phantom_public(path: Path, per_class: int, size: int, seed: int, channels: int = 1) -> SatFacts:
    """A SAT bundle of the sites' own task, intact and fractured in turn: the bones of a site that none of them is."""
    site = PhantomSite(MAX_SITES, REGIONS, 0.5, gain=1.0, gamma=1.0, noise=0.04, blur=0)
    chosen: dict[bool, list[Pixels]] = {False: [], True: []}
    for pixels, fractured, _, _ in site_images(site, 4 * per_class + 4, size, seed):
        chosen[fractured].append(pixels)
    images = np.stack(
        [image for pair in zip(chosen[False], chosen[True], strict=False) for image in pair][: 2 * per_class]
    )
    labels = np.arange(2 * per_class, dtype=np.uint8) % 2
    return write_sat(path, ImageSet(np.repeat(images[:, None], channels, axis=1), labels))


def site_images(site: PhantomSite, num_cases: int, size: int, seed: int) -> Iterator[tuple[Pixels, bool, Region, int]]:
    """(pixels, fractured, region, patient number); every third patient has two views."""
    made = patient_number = 0
    while made < num_cases:
        draw = _generator(seed, 0, site.index, patient_number)
        patient = _patient(site, patient_number, draw)
        for _ in range(min(2 if patient_number % 3 == 2 else 1, num_cases - made)):
            pixels = _exposed(radiograph(patient, size, draw), site, draw)
            yield pixels, patient.fractured, patient.region, patient_number
            made += 1
        patient_number += 1


def radiograph(patient: _Patient, size: int, draw: np.random.Generator) -> Field:
    """Bones in soft tissue, 0..1, without noise."""
    y, x = _grid(size)
    across, along = _turned(x, y, draw.normal(0, 0.25))
    across = across - draw.normal(0, 0.08) + draw.normal(0, 0.08) * along**2
    region = patient.region
    limb = 1.35 * region.num_bones * region.half_width + 0.2
    image = 0.28 * _inside(limb - np.abs(across), 0.05) + draw.uniform(-0.04, 0.04) * y
    for bone in range(region.num_bones):
        offset = (bone - (region.num_bones - 1) / 2) * 2.5 * region.half_width
        half_width = region.half_width * draw.uniform(0.85, 1.15) * (1 + 0.25 * along**2)
        if bone != patient.bone % region.num_bones:
            image = image + _bone(across - offset, half_width)
        elif patient.fractured:
            image = image + _broken_bone(across - offset, along, half_width, patient, draw)
        else:
            image = image + _bone(across - offset, half_width) * (1 - _growth_plate(along, draw))
    return image * (1 - _skin_fold(x, y, draw))


def lesion(malignant: bool, size: int, draw: np.random.Generator) -> Pixels:
    """An ultrasound image with one lesion. Shape tells; mean brightness does not."""
    y, x = _grid(size)
    cx, cy = draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.2)
    radius = draw.uniform(0.25, 0.42)
    stretch = draw.uniform(0.75, 1.05) if malignant else draw.uniform(0.5, 0.75)
    dx, dy = x - cx, (y - cy) / stretch
    angle = np.arctan2(dy, dx)
    spikes = draw.uniform(0.12, 0.25) if malignant else draw.uniform(0.0, 0.04)
    outline = radius * (1 + spikes * np.sin(draw.integers(6, 11) * angle + draw.uniform(0, 6.3)))
    body = _inside(outline - np.hypot(dx, dy), 0.03)
    layers = 0.5 + 0.12 * np.sin(draw.uniform(4, 9) * y + draw.uniform(0, 6.3))
    below = _inside(radius - np.abs(dx), 0.08) * _inside(y - cy, 0.1)
    echo = layers * (1 - draw.uniform(0.5, 0.75) * body) * (1 + (-0.25 if malignant else 0.1) * below)
    speckle = draw.rayleigh(0.8, size=(size, size))
    brightness = draw.uniform(0.6, 1.1)
    return _pixels(brightness * echo * (0.4 + 0.6 * speckle))


def _patient(site: PhantomSite, number: int, draw: np.random.Generator) -> _Patient:
    """The n-th patient is fractured when n times the share passes a whole number: the share holds in every stretch."""
    fractured = int((number + 1) * site.positive_share) > int(number * site.positive_share)
    region = site.regions[int(draw.random() < 0.35)]
    return _Patient(region, fractured, draw.uniform(-0.45, 0.45), int(draw.integers(2)))


def _bone(across: Field, half_width: Field) -> Field:
    """Marrow with a brighter cortex at both edges."""
    edge = np.abs(across) / half_width
    cortex = np.exp(-(((edge - 0.82) / 0.16) ** 2))
    return (0.3 + 0.35 * cortex) * _inside(1 - edge, 0.08)


def _broken_bone(across: Field, along: Field, half_width: Field, patient: _Patient, draw: np.random.Generator) -> Field:
    """A dark, oblique, slightly jagged gap, beyond which the bone is stepped sideways."""
    jag = 0.03 * np.sin(draw.uniform(20, 40) * across + draw.uniform(0, 6.3))
    beyond = along - patient.place - draw.uniform(-0.9, 0.9) * across - jag
    step = draw.choice((-1, 1)) * draw.uniform(0.35, 0.8) * patient.region.half_width
    density = _bone(across - step * _inside(beyond, 0.03), half_width)
    return density * (1 - _dark_line(beyond, draw))


def _growth_plate(along: Field, draw: np.random.Generator) -> Field:
    """A dark line straight through one end of most whole bones."""
    line = _dark_line(along - draw.choice((-0.75, 0.75)), draw)
    return line if draw.random() < 0.6 else np.zeros_like(line)


def _dark_line(distance: Field, draw: np.random.Generator) -> Field:
    line: Field = draw.uniform(0.45, 0.85) * np.exp(-((distance / draw.uniform(0.03, 0.06)) ** 2))
    return line


def _skin_fold(x: Field, y: Field, draw: np.random.Generator) -> Field:
    """A faint dark line across the whole image, in any patient."""
    across, _ = _turned(x, y, draw.uniform(0, np.pi))
    line: Field = draw.uniform(0, 0.3) * np.exp(-(((across - draw.uniform(-0.7, 0.7)) / 0.04) ** 2))
    return line


def _exposed(image: Field, site: PhantomSite, draw: np.random.Generator) -> Pixels:
    for _ in range(site.blur):
        image = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1) + np.roll(image, (1, 1), (0, 1))) / 4
    signal = np.clip(image, 0, None) ** site.gamma * site.gain * draw.uniform(0.85, 1.15) + draw.uniform(0, 0.08)
    return _pixels(signal + draw.normal(0, site.noise, image.shape))


def _pixels(signal: Field) -> Pixels:
    return np.clip(np.rint(signal * 255), 0, 255).astype(np.uint8)


def _inside(distance: Field, softness: float) -> Field:
    """A soft step: 0 where distance is negative, 1 where it is positive."""
    return 1 / (1 + np.exp(np.clip(-distance / softness, -30, 30)))


def _turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _grid(size: int) -> tuple[Field, Field]:
    steps = ((np.arange(size, dtype=np.float64) + 0.5) / size) * 2 - 1
    return np.meshgrid(steps, steps, indexing="ij")


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _archive(site: PhantomSite, num_cases: int, size: int, seed: int) -> NpzContent:
    images, fractured, regions, patients = zip(*site_images(site, num_cases, size, seed), strict=True)
    return NpzContent(
        images=np.stack(images),
        classes=CLASSES,
        labels=tuple(CLASSES[flag] for flag in fractured),
        domains=tuple(region.name for region in regions),
        groups=tuple(f"{site.name}-{number}" for number in patients),
        names=tuple(f"{site.name}-{number:05d}" for number in range(num_cases)),
        splits=(None,) * num_cases,
    )
