"""The SAT bundle: the small public task that is the same at every node (design 1; methods.md 1.1).

A bundle is a tensor file with `images` uint8 (N, C, H, W) and `labels` uint8 (N,), 1 = positive class. Its digest is
taken over the tensors, never over the file, so it tells what is trained on. A run declares it and every node checks it
before its first round: an update trained on another anchor would be averaged without anyone noticing.
"""

from pathlib import Path

import numpy as np

from hsl_data.binding import SiteBinding
from hsl_data.decode import Scratch, decode_cases
from hsl_data.duplicates import DecodedCase, drop_copies
from hsl_data.errors import SatDigestError, SatInvalidError, SatMissingError, SatTooSmallError
from hsl_data.mapping import select_cases
from hsl_data.readers import open_reader
from hsl_data.split import Counts, keyed_number
from hsl_model.checkpoint import read_tensors, tensors_digest, write_tensors
from hsl_model.data import ImageSet
from hsl_model.protocol.config import Message, Sha256, TaskConfig
from hsl_model.protocol.errors import CheckpointError


class SatFacts(Message):
    path: Path
    digest: Sha256
    num_positive: int
    num_negative: int
    channels: int
    height: int
    width: int
    num_resized: int = 0

    def lines(self) -> list[str]:
        size = f"{self.channels} x {self.height} x {self.width}"
        lines = [
            f"SAT bundle {self.path.name}: {self.num_positive} positive, {self.num_negative} negative, {size}",
            f"digest {self.digest}",
        ]
        return lines + ([f"{self.num_resized} images were resized for it"] if self.num_resized else [])


def build_sat(binding: SiteBinding, task: TaskConfig, per_class: int | Counts, output: Path, seed: int = 0) -> SatFacts:
    """Draw `per_class` images of each class from any source; `task` gives the anchor task's classes and image size.

    `per_class` may be two counts, of negative and positive images: the paper's arms with a SAT for each node have such.

    Copies and images with conflicting labels are left out. The draw is keyed by `seed` and names. Raises
    `SatTooSmallError` where a class has too few, and the errors of reading a source.
    """
    selection = select_cases(open_reader(binding).cases(), binding, task)
    with Scratch(output.with_name(output.name + ".scratch"), task) as scratch:
        decoded = decode_cases(selection.cases, task, scratch)
        decoded.check_budget(binding.max_unreadable_share)
        dropped = drop_copies(decoded.cases, frozenset())
        good = [case for index, case in enumerate(decoded.cases) if index not in dropped]
        counts = (per_class, per_class) if isinstance(per_class, int) else per_class
        chosen = _draw(good, task, counts, seed)
        images = np.stack([scratch.pixels(case.row) for case in chosen])
    labels = np.array([case.label for case in chosen], dtype=np.uint8)
    return write_sat(output, ImageSet(images, labels), num_resized=decoded.num_resized)


def write_sat(path: Path, images: ImageSet, num_resized: int = 0) -> SatFacts:
    write_tensors(path, {"images": images.images, "labels": images.labels})
    _, channels, height, width = images.images.shape
    return SatFacts(
        path=path,
        digest=sat_digest(images),
        num_positive=int(images.labels.sum()),
        num_negative=int((images.labels == 0).sum()),
        channels=channels,
        height=height,
        width=width,
        num_resized=num_resized,
    )


def sat_digest(sat: ImageSet) -> str:
    return tensors_digest({"images": sat.images, "labels": sat.labels}.items())


def load_sat(path: Path, digest: str) -> ImageSet:
    """The bundle, if it is the one with this digest; else `SatDigestError` or `SatInvalidError`."""
    try:
        tensors = read_tensors(path)
    except FileNotFoundError as error:
        raise SatInvalidError(path=path.name, reason="there is no such file.") from error
    except CheckpointError as error:
        raise SatInvalidError(path=path.name, reason=f"{error.data.get('reason')}.") from error
    if (found := tensors_digest(tensors.items())) != digest:
        raise SatDigestError(path=path.name, found=found, expected=digest)
    return _checked(tensors, path)


def load_task_sat(path: Path | None, digest: str | None, task: TaskConfig) -> ImageSet | None:
    """The SAT of a run at the task's size, or None where the run declares none. Nothing is resized."""
    if digest is None:
        return None
    if path is None:
        raise SatMissingError(digest=digest)
    sat = load_sat(path, digest)
    wanted = (task.channels, task.height, task.width)
    if sat.images.shape[1:] != wanted:
        reason = f"its images are {_size(sat.images.shape[1:])}, the task's {_size(wanted)}; a SAT is never resized."
        raise SatInvalidError(path=path.name, reason=reason)
    return sat


def _draw(cases: list[DecodedCase], task: TaskConfig, counts: Counts, seed: int) -> list[DecodedCase]:
    """So many negative and positive ones; in keyed order, so that the classes are mixed throughout the bundle."""
    ordered = sorted(cases, key=lambda case: keyed_number(seed, "sat", f"{case.name}\0{case.pixel_digest}"))
    chosen: list[DecodedCase] = []
    for label, name in ((1, task.positive_class), (0, task.negative_class)):
        of_class = [case for case in ordered if case.label == label]
        if len(of_class) < counts[label]:
            raise SatTooSmallError(wanted=counts[label], class_name=name, found=len(of_class))
        chosen += of_class[: counts[label]]
    rank = {case.row: position for position, case in enumerate(ordered)}
    return sorted(chosen, key=lambda case: rank[case.row])


def _checked(tensors: dict[str, np.ndarray], path: Path) -> ImageSet:
    if tensors.keys() != {"images", "labels"}:
        raise SatInvalidError(path=path.name, reason=f"it holds {', '.join(tensors)} instead of images and labels.")
    try:
        sat = ImageSet(tensors["images"], tensors["labels"])
    except ValueError as error:
        raise SatInvalidError(path=path.name, reason=f"{error}.") from error
    if sat.labels.dtype != np.uint8 or set(np.unique(sat.labels)) != {0, 1}:
        raise SatInvalidError(path=path.name, reason="its labels must be uint8, with both 0 and 1 among them.")
    return sat


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
