"""What readers of files share."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def files_digest(root: Path, names: Iterable[str], *more: str) -> str:
    """SHA-256 over names, sizes and modification times: changes with the files, costs no reading of them."""
    digest = hashlib.sha256()
    for text in more:
        digest.update(f"{text}\0".encode())
    for name in names:
        try:
            stat = (root / name).stat()
            facts = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            facts = "missing"
        digest.update(f"{name}\0{facts}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
