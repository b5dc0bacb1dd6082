"""A folder with one folder of images per class: `<root>/<class>/**/<image>`.

Every file in a class folder counts as an image, so that nothing is left out in silence: a file that is none is
reported as unreadable. Hidden files (`.DS_Store`, `._1.png`) and Windows' own are not looked at.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from hsl_data.cases import Case
from hsl_data.errors import SourceError
from hsl_data.images import open_image
from hsl_data.readers.files import files_digest

_NOT_LOOKED_AT = {"thumbs.db", "desktop.ini"}


class FolderReader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def facts(self) -> str:
        return files_digest(self._root, self._names())

    def cases(self) -> Iterator[Case]:
        for name in self._names():
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # names of any bytes
            yield Case(name=shown, site_class=shown.split("/")[0], load=partial(open_image, self._root / name))

    def skipped(self) -> Mapping[str, int]:
        hidden = sum(not _looked_at(path.relative_to(self._root)) for path in self._root.rglob("*") if path.is_file())
        return {"hidden files and the system's own": hidden} if hidden else {}

    def _names(self) -> list[str]:
        if not self._root.is_dir():
            raise SourceError(path=self._root, reason="it is not a folder.")
        paths = (path.relative_to(self._root) for path in self._root.rglob("*") if path.is_file())
        names = sorted(path.as_posix() for path in paths if _looked_at(path))
        if not names:
            raise SourceError(path=self._root, reason="it holds no images; put them into one folder per class.")
        if outside := sum("/" not in name for name in names):
            raise SourceError(path=self._root, reason=f"{outside} file(s) lie outside any class folder; move them.")
        return names


def _looked_at(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts) and path.name.lower() not in _NOT_LOOKED_AT
