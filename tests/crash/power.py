"""A power cut: what a machine finds when it comes up again is what was fsynced, and nothing else.

`power.c`, preloaded into the processes of a run, keeps a copy of each file and of each folder's names as they were at
their last fsync, whoever asked for it: Python, SQLite, a training child. From that copy the folder is built anew. Two
disks that POSIX allows are played: one that dropped everything not fsynced, names too (`Harm.POWER`), and one whose
names went to the disk at once, but not the bytes (`Harm.NAMES`). A disk that writes some blocks of a file and not
others, or lies about fsync, is not.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("power.c")


def build(folder: Path) -> Path:
    """Raises `FileNotFoundError` where there is no compiler."""
    library = folder / "power.so"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", SOURCE, "-o", library, "-ldl", "-lpthread"], check=True
    )
    return library


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # preloaded: its names are everybody's


def is_preloaded() -> bool:
    return hasattr(_library(), "hsl_power_watch")


def watch(machine: Path, shadow: Path) -> None:
    """From now on in this process and its children."""
    os.environ["HSL_POWER_ROOT"], os.environ["HSL_POWER_SHADOW"] = str(machine), str(shadow)
    _library().hsl_power_watch(os.fsencode(machine), os.fsencode(shadow))


def cut() -> None:
    _library().hsl_power_cut()


def remember(machine: Path, shadow: Path) -> None:
    """A machine that is switched on: all that it finds is on the disk."""
    shutil.rmtree(shadow, ignore_errors=True)
    shadow.mkdir(parents=True)
    _keep_names(machine, shadow)
    for path in machine.rglob("*"):
        if path.is_file():
            shutil.copyfile(path, shadow / f"data.{path.stat().st_ino}")
            os.link(path, shadow / f"held.{path.stat().st_ino}")


def restore(machine: Path, shadow: Path, *, names_survive: bool) -> None:
    """Make `machine` what its disk holds. The shadow is of no use afterwards."""
    if names_survive:
        _keep_names(machine, shadow)
    before, after = machine.with_name(f"{machine.name}.before"), machine.with_name(f"{machine.name}.after")
    _rebuild(machine.stat().st_ino, after, shadow)
    machine.rename(before)
    after.rename(machine)
    shutil.rmtree(before)
    shutil.rmtree(shadow)


def _keep_names(machine: Path, shadow: Path) -> None:
    """Of every folder, as `power.c` does of one."""
    for folder in (machine, *(path for path in machine.rglob("*") if path.is_dir())):
        lines = [f"{path.lstat().st_ino} {'d' if path.is_dir() else 'f'} {path.name}\n" for path in folder.iterdir()]
        (shadow / f"names.{folder.stat().st_ino}").write_text("".join(lines))


def _rebuild(number: int, after: Path, shadow: Path) -> None:
    after.mkdir(mode=0o700)
    names = shadow / f"names.{number}"
    for line in names.read_text().splitlines() if names.exists() else ():  # never fsynced: nothing in it
        inode, kind, name = line.split(" ", 2)
        if kind == "d":
            _rebuild(int(inode), after / name, shadow)
            continue
        kept = shadow / f"data.{inode}"
        (after / name).write_bytes(kept.read_bytes() if kept.exists() else b"")
        (after / name).chmod(0o600)
