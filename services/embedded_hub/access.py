"""Who may do what where: the permissions of the layout, as one pure function over a small table.

                     own files          own .part      others' files    others' .part    folders
    look, list       yes                yes            yes              hidden           yes
    read, hash       yes                yes            yes              hidden           -
    write            -                  yes            -                hidden           -
    remove           yes                yes            -                hidden           -
    rename from      -                  yes            -                hidden           -
    rename to        yes                -              -                -                -

A file gets its final name only by a rename from a part, so readers never see one grow. Names outside the layout do not
exist, whatever lies on the disk; folders are made by the admin API alone; symbolic links are never followed.
"""

import errno
import posixpath
from dataclasses import dataclass
from enum import StrEnum

from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError


class Wish(StrEnum):
    LOOK = "look"
    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    RENAME_FROM = "rename from"
    RENAME_TO = "rename to"


_OWN_FILE = frozenset({Wish.LOOK, Wish.READ, Wish.REMOVE, Wish.RENAME_TO})
_OWN_PART = frozenset({Wish.LOOK, Wish.READ, Wish.WRITE, Wish.REMOVE, Wish.RENAME_FROM})
_OTHERS_FILE = frozenset({Wish.LOOK, Wish.READ})
_FOLDER = frozenset({Wish.LOOK})


@dataclass(frozen=True)
class Place:
    """A path as nodes see it, without `.` and `..`. `file` is None for folders."""

    path: str
    file: paths.TensorPath | paths.ManifestPath | None

    @property
    def relative(self) -> str:
        return self.path.lstrip("/")

    @property
    def is_part(self) -> bool:
        return isinstance(self.file, paths.TensorPath) and self.file.is_part


def resolve(raw: bytes) -> Place:
    """Where a path leads, `..` resolved first. Raises `FileNotFoundError` for anything the layout does not have."""
    try:
        path = posixpath.normpath(posixpath.join("/", raw.decode()))
    except UnicodeDecodeError as error:
        raise absent() from error
    path = "/" + path.lstrip("/")
    if path in ("/", "/nodes") or _is_node_folder(path):
        return Place(path, None)
    try:
        return Place(path, paths.parse(path))
    except RemotePathError as error:
        raise absent() from error


def check(node_id: str, place: Place, wish: Wish) -> None:
    """Raise `FileNotFoundError` for what this node cannot see, `PermissionError` for what it may not do."""
    if place.file is None:
        allowed = _FOLDER
    elif place.file.node_id == node_id:
        allowed = _OWN_PART if place.is_part else _OWN_FILE
    else:
        if place.is_part:
            raise denied() if wish is Wish.WRITE else absent()
        allowed = _OTHERS_FILE
    if wish not in allowed:
        raise denied()


def absent() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no such file")


def denied() -> PermissionError:
    return PermissionError(errno.EACCES, "permission denied")


def _is_node_folder(path: str) -> bool:
    try:
        return path == paths.node_folder(path.removeprefix("/nodes/"))
    except RemotePathError:
        return False
