"""What the process of one cell is told, and how it is started. Without torch: what starts cells starts at once.

    engine -> python -m hsl_study.cell_process WORK -> stdout: one `CellReply` (cells.py); stderr: an error of ours
                  its stdin closes with whoever started it -> snapshot, end

A cell thus never outlives its study, and where a second study finds one that is still writing its snapshot, it waits.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hsl_model.protocol.config import Message
from hsl_model.round_work import EngineOptions

FORESEEN = 2  # the status of an error of ours


class CellWork(Message):
    """`stop_after_s`: of the process, after at least one step. `memory_share`: of a GPU that cells share."""

    folder: Path
    scenario: int
    key: tuple[str, str, int]
    options: EngineOptions
    memory_share: float | None = None
    stop_after_s: float | None = None

    @property
    def title(self) -> str:
        return "/".join(map(str, self.key))


@dataclass(frozen=True)
class Ended:
    status: int
    said: str
    error: str


def run_process(work: str) -> Ended:
    """`work`: a `CellWork` as JSON. Returns when the process has ended."""
    lifeline, held = os.pipe()
    try:
        command = [sys.executable, "-m", "hsl_study.cell_process", work]
        done = subprocess.run(command, stdin=lifeline, capture_output=True, text=True, check=False)
    finally:
        os.close(lifeline)
        os.close(held)
    return Ended(done.returncode, done.stdout, done.stderr)
