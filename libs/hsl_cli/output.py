"""How results are shown: a rich table for people, JSON for scripts. Data on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence

from pydantic import BaseModel
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

Cell = object


def say(sentence: str) -> None:
    Console(highlight=False).print(sentence, soft_wrap=True, markup=False)


def warn(sentence: str) -> None:
    Console(stderr=True, highlight=False).print(sentence, soft_wrap=True, markup=False)


def print_json(value: BaseModel | Sequence[BaseModel] | object) -> None:
    print(json.dumps(plain(value), indent=2, sort_keys=True))


def plain(value: object) -> object:
    """Models as JSON values, whatever they are nested in."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")  # never cut: two names that begin alike are two names
    for row in rows:
        made.add_row(*(text(cell) for cell in row))
    return made


def facts(pairs: Iterable[tuple[str, Cell]]) -> Table:
    """Two columns without lines: what `show` and `status` print. Facts that are None are left out."""
    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(style="bold")
    made.add_column()
    for name, value in pairs:
        if value is not None:
            made.add_row(name, text(value))
    return made


def show(renderable: Table) -> None:
    """As wide as the terminal; in a file or a pipe as wide as it needs, so that a row is one line."""
    console = Console()
    if not console.is_terminal:
        needed = Measurement.get(console, console.options.update(width=sys.maxsize), renderable)
        console.width = max(console.width, needed.maximum)
    console.print(renderable)


def text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return str(cell).replace("[", "\\[")  # what came over the wire is text, never markup


def num_bytes(value: int) -> str:
    """1234567 as "1.2 MB": decimal units, as disks and networks count."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def bytes_of(done: int, total: int) -> str:
    """41000000, 95000000 as "41 of 95 MB"."""
    size, unit = 1, "B"
    for larger in ("kB", "MB", "GB"):
        if total < size * 1000:
            break
        size, unit = size * 1000, larger
    digits = 1 if size > 1 and total < 10 * size else 0
    return f"{done / size:.{digits}f} of {total / size:.{digits}f} {unit}"


def seconds(value: float) -> str:
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"
