"""Decode every image once, into a scratch file of equal rows, and take its fingerprints on the way."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from hsl_data.cases import Case
from hsl_data.duplicates import DecodedCase, visual_hash
from hsl_data.errors import UnreadableError, UnreadableImageError
from hsl_data.images import Pixels, fitted
from hsl_model.protocol.config import TaskConfig


class Scratch:
    """Pixels by row number on disk. Written with `pwrite`, so that a full disk is an error and not a dead process."""

    def __init__(self, path: Path, task: TaskConfig) -> None:
        self.shape = (task.channels, task.height, task.width)
        self._row_bytes = task.channels * task.height * task.width
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, row: int, pixels: Pixels) -> None:
        data, offset = pixels.tobytes(), row * self._row_bytes
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def read(self, row: int) -> bytes:
        return os.pread(self._file, self._row_bytes, row * self._row_bytes)

    def pixels(self, row: int) -> Pixels:
        return np.frombuffer(self.read(row), dtype=np.uint8).reshape(self.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._path.unlink()


@dataclass(frozen=True)
class Decoded:
    cases: tuple[DecodedCase, ...]
    unreadable: tuple[tuple[str, str], ...]  # name, reason
    num_resized: int

    def check_budget(self, max_share: float) -> None:
        """The skip budget: a few bad files cost a line in the report, a damaged source is an error."""
        num_cases = len(self.cases) + len(self.unreadable)
        if len(self.unreadable) <= max_share * num_cases:
            return
        reasons = Counter(reason for _, reason in self.unreadable).most_common()
        raise UnreadableError(
            self.unreadable,
            num_unreadable=len(self.unreadable),
            num_cases=num_cases,
            reasons=", ".join(f"{count} {reason}" for reason, count in reasons),
            max_share=max_share,
        )


def decode_cases(cases: Sequence[tuple[Case, int]], task: TaskConfig, scratch: Scratch) -> Decoded:
    """Row i of `scratch` receives case i. Decoders release the interpreter lock, so threads use every core."""

    def decode(row: int) -> tuple[DecodedCase, bool] | UnreadableImageError:
        case, label = cases[row]
        try:
            pixels, resized = fitted(case.load, case.name, task)
        except UnreadableImageError as error:
            return error
        scratch.write(row, pixels)
        return _described(case, label, row, pixels), resized

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        results = list(threads.map(decode, range(len(cases))))
    good = [result for result in results if not isinstance(result, UnreadableImageError)]
    bad = [
        (case.name, result.reason)
        for (case, _), result in zip(cases, results, strict=True)
        if isinstance(result, UnreadableImageError)
    ]
    return Decoded(tuple(case for case, _ in good), tuple(sorted(bad)), sum(resized for _, resized in good))


def pixel_digest(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _described(case: Case, label: int, row: int, pixels: Pixels) -> DecodedCase:
    return DecodedCase(
        name=case.name,
        label=label,
        site_class=case.site_class,
        group=case.group,
        domain=case.domain,
        source_split=case.source_split,
        row=row,
        pixel_digest=pixel_digest(pixels),
        visual_hash=visual_hash(pixels) if case.group is None else None,
    )
