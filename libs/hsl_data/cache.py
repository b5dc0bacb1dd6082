"""Prepared splits on disk: decoded once, then memory-mapped at every start.

    <cache>/<binding>-<source>/training.npy  training.labels.npy  …  cases.csv  prepared.json

`<binding>` is a digest of binding, task, SAT and the decoding code, `<source>` one of the source's facts; so a change
of either is another folder. `prepared.json` is written last and holds the SHA-256 of every other file: without it, or
with a file that differs, the folder is built anew. A lock per binding lets one process build while others wait for it.
"""

import csv
import hashlib
import io
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import PIL
from pydantic import ValidationError

from hsl_data.arrange import Arrangement
from hsl_data.binding import SiteBinding
from hsl_data.decode import Scratch
from hsl_data.duplicates import DecodedCase
from hsl_data.report import TruthReport
from hsl_data.split import SPLITS, Split
from hsl_model.checkpoint import sha256_file
from hsl_model.data import ImageSet
from hsl_model.durable import publish, write_bytes
from hsl_model.locking import locked
from hsl_model.protocol.config import Message, Sha256, TaskConfig

FORMAT = 3  # raise it whenever the same source would give other pixels, splits or files
_MANIFEST = "prepared.json"


class _Manifest(Message):
    files: dict[str, Sha256]
    report: TruthReport


class CacheSlot:
    """Where one prepared site lies. Use it under `lock`."""

    def __init__(self, cache: Path, binding: SiteBinding, task: TaskConfig, more: tuple[str | None, str]) -> None:
        """`more` is the SAT's digest and the source's facts."""
        sat_digest, facts = more
        self._cache = cache
        self._binding_key = _digest(
            str(FORMAT), PIL.__version__, binding.model_dump_json(), task.model_dump_json(), sat_digest or ""
        )
        self.folder = cache / f"{self._binding_key}-{_digest(facts)}"

    @property
    def listing(self) -> Path:
        """For people and studies: which image lies in which split. It stays in this folder."""
        return self.folder / "cases.csv"

    def lock(self) -> AbstractContextManager[None]:
        """One builder at a time; a killed one leaves no lock behind."""
        return locked(self._cache / f"{self._binding_key}.lock")

    def load(self) -> tuple[dict[Split, ImageSet], TruthReport] | None:
        """The prepared splits, memory-mapped; None where they are missing, unfinished or altered."""
        try:
            manifest = _Manifest.model_validate_json((self.folder / _MANIFEST).read_bytes())
            if any(sha256_file(self.folder / name) != digest for name, digest in manifest.files.items()):
                return None
            return {split: _mapped(self.folder, split) for split in SPLITS}, manifest.report
        except (OSError, ValueError, ValidationError):
            return None

    def begin(self) -> Path:
        """An empty folder; also forgets what an older state of the same source left behind."""
        for old in self._cache.glob(f"{self._binding_key}-*"):
            shutil.rmtree(old)
        self.folder.mkdir(mode=0o700)
        return self.folder

    def finish(self, arrangement: Arrangement, scratch: Scratch, report: TruthReport) -> None:
        files: dict[str, str] = {}
        for split, cases in arrangement.splits.items():
            files[f"{split}.npy"] = _write_images(self.folder / f"{split}.npy", cases, scratch)
            labels = io.BytesIO()
            np.save(labels, np.array([case.label for case in cases], dtype=np.uint8), allow_pickle=False)
            files[f"{split}.labels.npy"] = _write(self.folder / f"{split}.labels.npy", labels.getvalue())
        files[self.listing.name] = _write(self.listing, _listing(arrangement))
        write_bytes(self.folder / _MANIFEST, _Manifest(files=files, report=report).model_dump_json(indent=1).encode())


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _mapped(folder: Path, split: Split) -> ImageSet:
    images = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
    return ImageSet(images=images, labels=np.load(folder / f"{split}.labels.npy", allow_pickle=False))


def _write(path: Path, data: bytes) -> str:
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def _write_images(path: Path, cases: Sequence[DecodedCase], scratch: Scratch) -> str:
    """The rows of one split in order, as .npy, without holding more than one image in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (len(cases), *scratch.shape)}
    )
    digest = hashlib.sha256(header.getvalue())
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(header.getvalue())
        for case in cases:
            row = scratch.read(case.row)
            digest.update(row)
            file.write(row)
    publish(temporary, path)
    return digest.hexdigest()


def _listing(arrangement: Arrangement) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["split", "name", "label", "domain", "group", "part"])
    for split, cases in arrangement.splits.items():
        for case in cases:
            group, part = arrangement.groups[case.row], case.source_split or ""
            table.writerow([split, case.name, case.label, case.domain or "", group, part])
    return text.getvalue().encode()
