"""The permissions as a table, and where paths lead. The same table over the wire is in test_permissions.py."""

import pytest

from embedded_hub.access import Wish, check, resolve

SHA = "ab" * 32
FILE, PART, MANIFEST = f"{SHA}.safetensors", f"{SHA}.part", f"run-1.round-0007.{SHA}.json"
ALLOWED, DENIED, ABSENT = None, PermissionError, FileNotFoundError

# path, then the verdicts for: look, read, write, remove, rename from, rename to
TABLE = [
    ("/", (ALLOWED, DENIED, DENIED, DENIED, DENIED, DENIED)),
    ("/nodes", (ALLOWED, DENIED, DENIED, DENIED, DENIED, DENIED)),
    ("/nodes/me", (ALLOWED, DENIED, DENIED, DENIED, DENIED, DENIED)),
    ("/nodes/other", (ALLOWED, DENIED, DENIED, DENIED, DENIED, DENIED)),
    (f"/nodes/me/{PART}", (ALLOWED, ALLOWED, ALLOWED, ALLOWED, ALLOWED, DENIED)),
    (f"/nodes/me/{FILE}", (ALLOWED, ALLOWED, DENIED, ALLOWED, DENIED, ALLOWED)),
    (f"/nodes/me/{MANIFEST}", (ALLOWED, ALLOWED, DENIED, ALLOWED, DENIED, ALLOWED)),
    (f"/nodes/other/{FILE}", (ALLOWED, ALLOWED, DENIED, DENIED, DENIED, DENIED)),
    (f"/nodes/other/{MANIFEST}", (ALLOWED, ALLOWED, DENIED, DENIED, DENIED, DENIED)),
    (f"/nodes/other/{PART}", (ABSENT, ABSENT, DENIED, ABSENT, ABSENT, ABSENT)),
    (f"/nodes/me2/{FILE}", (ALLOWED, ALLOWED, DENIED, DENIED, DENIED, DENIED)),  # the same beginning is no kinship
]


@pytest.mark.parametrize(("path", "verdicts"), TABLE)
def test_who_may_do_what(path: str, verdicts: tuple[type[OSError] | None, ...]) -> None:
    for wish, verdict in zip(Wish, verdicts, strict=True):
        if verdict is ALLOWED:
            check("me", resolve(path.encode()), wish)
        else:
            with pytest.raises(verdict):
                check("me", resolve(path.encode()), wish)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "/"),
        (b".", "/"),
        (b"..", "/"),
        (b"../../..", "/"),
        (b"/nodes/", "/nodes"),
        (b"nodes//me", "/nodes/me"),
        (b"//nodes/me", "/nodes/me"),
        (f"/nodes/me/../other/{FILE}".encode(), f"/nodes/other/{FILE}"),
        (f"/../nodes/./me/{PART}".encode(), f"/nodes/me/{PART}"),
    ],
)
def test_dots_are_resolved_first(raw: bytes, path: str) -> None:
    assert resolve(raw).path == path


@pytest.mark.parametrize(
    "raw",
    [
        b"/etc/passwd",
        b"/nodes/../users.json",
        b"/nodes/me/../../../etc/passwd",
        b"/nodes/ME",
        b"/nodes/me/sub",
        b"/nodes/me/.hidden",
        f"/nodes/me/sub/{FILE}".encode(),
        f"/nodes/me/{FILE}/x".encode(),
        f"/nodes/me/{SHA.upper()}.part".encode(),
        f"/nodes/me/{FILE}\n".encode(),
        f"/nodes/me/{FILE}\0".encode(),
        f"/nodes/me/{SHA}.safetensors.part".encode(),
        b"/nodes/\xff\xfe",
        b"/nodes/" + b"a" * 33,
    ],
)
def test_nothing_else_exists(raw: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        resolve(raw)
