"""Studies that come with HeteroSync. The first line of each file says what it is."""

from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path(__file__).parent
_PARTS = ("arms", "scales")  # of studies (hsl_study/scales.py), none themselves


def described() -> Iterator[tuple[str, str]]:
    """Name and first line of each."""
    for path in sorted(path for path in _FOLDER.glob("*.toml") if path.stem not in _PARTS):
        yield path.stem, path.read_text().partition("\n")[0].lstrip("# ")


def path_of(name: str) -> Path | None:
    """The file of a study by its name; None where there is none of that name."""
    path = _FOLDER / f"{name}.toml"
    return path if "/" not in name and name not in _PARTS and path.is_file() else None
