"""docs/operations.md as something that can be run: its blocks, by name, in the order of the page.

<!-- run: NAME on ROLE -->      the next block is run by tests/compose, on the machine of that role
<!-- not run: REASON -->        it is not, and says why
If it fails: …                  after each block; said when it does
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```sh\n(?P<script>.*?)^```\n(?P<after>.*?)(?=^<!-- |^```|^## |\Z)",
    re.MULTILINE | re.DOTALL,
)
_RUN = re.compile(r"run: (?P<name>.+) on (?P<role>hub|site)")


@dataclass(frozen=True)
class Step:
    name: str
    role: str  # "": not run
    script: str
    if_it_fails: str
    line: int


def steps(page: str | None = None) -> list[Step]:
    """Every block of the page. ValueError names one that says neither where it runs nor why not."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    found = []
    for block in _BLOCK.finditer(text):
        line = text[: block.start("script")].count("\n") + 1
        mark, advice = block["mark"] or "", re.search(r"^If it fails.*?(?=\n\n|\Z)", block["after"], re.M | re.S)
        run = _RUN.fullmatch(mark)
        if run is None and not mark.startswith("not run: "):
            raise ValueError(f"line {line}: the block says neither where it runs nor why it does not")
        if advice is None:
            raise ValueError(f"line {line}: nothing says what to do if this block fails")
        name, role = (run["name"], run["role"]) if run else (mark, "")
        found.append(Step(name, role, block["script"], " ".join(advice[0].split()), line))
    return found


def step(name: str, role: str) -> Step:
    (found,) = [one for one in steps() if (one.name, one.role) == (name, role)]
    return found
