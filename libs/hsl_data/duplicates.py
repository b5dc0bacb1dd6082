"""Copies and near copies: what is dropped, and what may not be parted by a split.

* Pixel-identical at the task's size, same label: one copy is kept (the first by name), the others are dropped.
* Pixel-identical with different labels: nobody knows which label is right, so all of them are dropped.
* Pixel-identical to an image of the SAT: dropped, since every node trains on the SAT.
* A group is a patient where the source knows it. Images of unknown patients form groups by perceptual hash: 256 bits,
  and at most 28 of them different. Pixel-identical images are in one group whoever their patient is.

Measured on radiographs of 28 to 64 pixels: the same picture saved again, at another size, exposed differently or as a
poor JPEG stays within 28 bits in 99 of 100 cases; the nearest unrelated picture of 600 is beyond 42, and chains of
strangers begin to form at 36. (The usual 64 bits do not part them: there chest films chain into a group of a thousand.)
"""

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import imagehash
import numpy as np
from PIL import Image

from hsl_data.images import Pixels

MAX_HASH_DISTANCE = 28  # of 256 bits
_HASH_SIZE = 16  # 16 x 16 lowest frequencies

DropReason = Literal["duplicate", "conflicting", "in_sat"]


@dataclass(frozen=True, slots=True)
class DecodedCase:
    """A readable image: where its pixels lie in the scratch file, and what tells it from others."""

    name: str
    label: int
    site_class: str
    group: str | None
    domain: str | None
    source_split: str | None
    row: int
    pixel_digest: str
    visual_hash: bytes | None

    @property
    def sort_key(self) -> tuple[str, str]:
        return self.name, self.pixel_digest


def visual_hash(pixels: Pixels) -> bytes:
    """The perceptual hash of pixels (C, H, W): 32 bytes."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return np.packbits(imagehash.phash(image, hash_size=_HASH_SIZE, highfreq_factor=2).hash).tobytes()


def drop_copies(cases: Sequence[DecodedCase], sat_digests: Set[str]) -> dict[int, DropReason]:
    """Which cases (by position) are dropped, and why."""
    labels: dict[str, set[int]] = {}
    for case in cases:
        labels.setdefault(case.pixel_digest, set()).add(case.label)
    dropped: dict[int, DropReason] = {}
    seen: set[str] = set()
    for index in sorted(range(len(cases)), key=lambda index: cases[index].sort_key):
        digest = cases[index].pixel_digest
        if digest in sat_digests:
            dropped[index] = "in_sat"
        elif len(labels[digest]) > 1:
            dropped[index] = "conflicting"
        elif digest in seen:
            dropped[index] = "duplicate"
        seen.add(digest)
    return dropped


def find_groups(cases: Sequence[DecodedCase]) -> list[str]:
    """The group key of each case, made of names and patients only: `patient:…`, else `image:<first name>`."""
    own = [f"image:{case.name}" if case.group is None else f"patient:{case.group}" for case in cases]
    joined = _Joined(own)
    first_with: dict[str | bytes, str] = {}
    for case, key in zip(cases, own, strict=True):
        for fingerprint in (case.pixel_digest, case.visual_hash):
            if fingerprint is not None:
                joined.join(first_with.setdefault(fingerprint, key), key)
    hashes = [fingerprint for fingerprint in first_with if isinstance(fingerprint, bytes)]
    for first, second in near_pairs(hashes):
        joined.join(first_with[hashes[first]], first_with[hashes[second]])
    return [joined.find(key) for key in own]


def near_pairs(hashes: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Pairs (i < j) that differ in at most `MAX_HASH_DISTANCE` bits. All are compared: 40,000 images take seconds."""
    words = np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(-1, 4)
    for index in range(len(words) - 1):
        bits = np.bitwise_count(words[index + 1 :] ^ words[index]).sum(axis=1, dtype=np.uint16)
        for offset in np.flatnonzero(bits <= MAX_HASH_DISTANCE):
            yield index, index + 1 + int(offset)


def crossing_source_splits(cases: Sequence[DecodedCase], groups: Sequence[str]) -> int:
    """How many images lie in groups that the publisher's own split tears apart: leaks, had that split been followed."""
    parts: dict[str, set[str]] = {}
    for case, group in zip(cases, groups, strict=True):
        if case.source_split is not None:
            parts.setdefault(group, set()).add(case.source_split)
    sizes = Counter(groups)
    return sum(sizes[group] for group, found in parts.items() if len(found) > 1)


class _Joined:
    """Union-find whose representative is the smallest key, so that it does not depend on the order of joining."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._parent = {key: key for key in keys}

    def find(self, key: str) -> str:
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low
