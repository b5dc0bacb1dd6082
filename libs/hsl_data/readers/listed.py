"""What the readers of published data sets share: a list of image files made from their names and tables.

Each such reader is one function that lists its layout: `(root) -> Listing`.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from hsl_data.cases import Case
from hsl_data.errors import SourceError
from hsl_data.images import open_image
from hsl_data.readers.files import files_digest

Load = Callable[[Path], Image.Image]


@dataclass(frozen=True, slots=True)
class Listed:
    """One image file. `name`: its path below the root, with `/`."""

    name: str
    site_class: str
    group: str | None = None
    domain: str | None = None
    source_split: str | None = None


@dataclass
class Listing:
    """`skipped`: files and rows of the source that are no cases, counted by reason."""

    images: list[Listed] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class ListedReader:
    def __init__(self, root: Path, listing: Callable[[Path], Listing], load: Load = open_image) -> None:
        self._root, self._make, self._load = root, listing, load

    def facts(self) -> str:
        listing = self._listing()
        described = (f"{one.name}\0{one.site_class}\0{one.group}\0{one.domain}" for one in listing.images)
        return files_digest(self._root, (one.name for one in listing.images), *described)

    def cases(self) -> Iterator[Case]:
        for one in self._listing().images:
            yield Case(
                name=one.name,
                site_class=one.site_class,
                load=partial(self._load, self._root / one.name),
                group=one.group,
                domain=one.domain,
                source_split=one.source_split,
            )

    def skipped(self) -> Mapping[str, int]:
        return dict(sorted(self._listing().skipped.items()))

    def _listing(self) -> Listing:
        if not self._root.is_dir():
            raise SourceError(path=self._root, reason="it is not a folder.")
        listing = self._make(self._root)
        if not listing.images:
            raise SourceError(path=self._root, reason="no image of this layout was found in it (docs/data-formats.md).")
        return listing


def files_below(root: Path, folder: str, pattern: str = "*") -> list[str]:
    """Names of the files below `root/folder`, sorted; hidden ones are not looked at. A missing folder is an error."""
    start = root / folder
    if not start.is_dir():
        raise SourceError(path=root, reason=f"folder {folder} is missing.")
    found = (path.relative_to(root) for path in start.rglob(pattern) if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header, stripped; `columns` must be there. `SourceError` for anything else."""
    rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    header = [name.strip() for name in rows[0]] if rows else []
    if missing := [name for name in columns if name not in header]:
        raise SourceError(path=path, reason=f"column(s) {', '.join(missing)} are missing.")
    short = next((number for number, row in enumerate(rows[1:], 2) if row and len(row) < len(header)), None)
    if short is not None:
        raise SourceError(path=path, reason=f"line {short} has fewer columns than the first line.")
    return [{name: row[at].strip() for at, name in enumerate(header)} for row in rows[1:] if row]


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise SourceError(path=path, reason="it cannot be opened.") from error
    except UnicodeDecodeError as error:
        raise SourceError(path=path, reason="it is not UTF-8 text.") from error


def only_listed(there: Iterable[str], known: Iterable[str]) -> tuple[set[str], set[str]]:
    """Files without a row, rows without a file."""
    files, rows = set(there), set(known)
    return files - rows, rows - files
