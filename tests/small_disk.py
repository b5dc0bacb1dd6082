"""A disk that is really full: a small tmpfs, mounted where the tests may."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MB = 1_000_000


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """`folder` as a disk of its own; skips where nothing can be mounted."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        # Lazily: a file that a failed test still holds open must not keep the mount for ever.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all room but `leave` bytes; deleting the file gives it back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while (free := shutil.disk_usage(folder).free - leave) > 0:
            file.write(bytes(min(free, MB)))
    return ballast
