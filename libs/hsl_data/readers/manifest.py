"""A CSV manifest with the columns `path,label` and, where known, `patient,domain`; further columns are not read.

Paths start from the manifest's folder (or `image_root`) and may not leave it.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from hsl_data.cases import Case
from hsl_data.errors import SourceError, UnreadableImageError
from hsl_data.images import open_image
from hsl_data.readers.files import files_digest


class _Row(NamedTuple):
    path: str
    label: str
    patient: str | None
    domain: str | None


class ManifestReader:
    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        self._path = path
        self._root = path.parent if image_root is None else image_root

    def facts(self) -> str:
        rows = self._rows()
        inside = (row.path for row in rows if _stays_inside(row.path))
        return files_digest(self._root, inside, hashlib.sha256(self._raw()).hexdigest())

    def cases(self) -> Iterator[Case]:
        for row in self._rows():
            load = partial(_open_inside, self._root, row.path)
            yield Case(name=row.path, site_class=row.label, load=load, group=row.patient, domain=row.domain)

    def skipped(self) -> Mapping[str, int]:
        return {}

    def _raw(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise SourceError(path=self._path, reason="the manifest cannot be opened.") from error

    def _rows(self) -> list[_Row]:
        try:
            text = self._raw().decode("utf-8-sig")
            table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            columns = table.fieldnames or ()
            if missing := sorted({"path", "label"} - set(columns)):
                reason = f"column(s) {', '.join(missing)} missing; the first line must name path,label,patient,domain."
                raise SourceError(path=self._path, reason=reason)
            rows = [self._row(row, table.line_num) for row in table]
        except UnicodeDecodeError as error:
            raise SourceError(path=self._path, reason="it is not UTF-8 text; save it as CSV UTF-8.") from error
        except csv.Error as error:
            raise SourceError(path=self._path, reason="it is not valid CSV; check the quotes.") from error
        if not rows:
            raise SourceError(path=self._path, reason="it lists no images.")
        return rows

    def _row(self, row: dict[str | None, str | None], line: int) -> _Row:
        values = {key: (row.get(key) or "").strip() for key in _Row._fields}
        if None in row or not values["path"] or not values["label"]:
            raise SourceError(path=self._path, reason=f"line {line} lacks a path or label, or has too many columns.")
        return _Row(values["path"], values["label"], values["patient"] or None, values["domain"] or None)


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _open_inside(root: Path, name: str) -> Image.Image:
    if not _stays_inside(name):
        raise UnreadableImageError(name, "its path leaves the manifest's folder")
    return open_image(root / name)
