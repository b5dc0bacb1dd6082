"""The one abstraction over all sources: a reader yields cases, and nothing behind it knows a file format."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Case:
    """One image as its source describes it. `load` decodes it anew on every call.

    `group` is the patient where the source knows it. `source_split` is the part in which the publisher of a data set
    put the image; it is not followed, only used to tell of leaks in it.
    """

    name: str
    site_class: str
    load: Callable[[], Image.Image]
    group: str | None = None
    domain: str | None = None
    source_split: str | None = None


class Reader(Protocol):
    def facts(self) -> str:
        """SHA-256 that changes when the source does. Keys the cache, so it is computed at every start: no decoding."""

    def cases(self) -> Iterator[Case]:
        """Every case of the source, in any order. Bad images show in `Case.load`, a bad source raises `SourceError`."""

    def skipped(self) -> Mapping[str, int]:
        """Files and rows of the source that are no cases, counted by reason, for the truth report."""
