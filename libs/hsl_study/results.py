"""What a study has found so far, read once: rows, missing cells, score files. Tables and figures are made of this.

A score file that is gone, or is not the one its row was made of, is left out, and whoever asks sees which seeds are
there.
"""

import hashlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from hsl_study.cells import CellRow
from hsl_study.config import StudyConfig
from hsl_study.folder import Key, MissingCell, StudyFolder
from hsl_study.statistics import Groups, Labels, Panel, Scores

Domains = Literal["own", "all"]


@dataclass(frozen=True)
class CellScores:
    """What one cell scored: N test images of all K nodes. `held` (K, N): which node tests on which."""

    nodes: tuple[str, ...]
    labels: Labels
    groups: Groups
    held: npt.NDArray[np.bool_]
    logits: Scores  # (K, N)

    def panels(self, domains: Domains) -> tuple[Panel, ...]:
        """Each node's model on its own test images, or on those of all nodes."""
        return tuple(self.panel(node, domains) for node in self.nodes)

    def panel(self, node: str, domains: Domains) -> Panel:
        at = self.nodes.index(node)
        where = self.held[at] if domains == "own" else np.ones(len(self.labels), dtype=np.bool_)
        return Panel(self.logits[at, where], self.labels[where], self.groups[where])


@dataclass(frozen=True)
class Results:
    folder: StudyFolder
    _scores: dict[Key, CellScores | None] = field(default_factory=dict)

    @property
    def config(self) -> StudyConfig:
        return self.folder.config

    @cached_property
    def rows(self) -> dict[Key, CellRow]:
        return self.folder.rows()

    @cached_property
    def missing(self) -> list[MissingCell]:
        return self.folder.missing()

    def of(self, scenario: str) -> list[CellRow]:
        return [row for _, row in sorted(self.rows.items()) if row.scenario == scenario]

    def scores(self, scenario: str, arm: str) -> dict[int, CellScores]:
        """By seed, of the arm's finished cells whose files are whole."""
        found = {row.seed: self._read(row) for row in self.of(scenario) if row.arm == arm}
        return {seed: scores for seed, scores in found.items() if scores is not None}

    def _read(self, row: CellRow) -> CellScores | None:
        if row.key not in self._scores:
            path = self.folder.scores(row.key)
            raw = path.read_bytes() if path.is_file() else b""
            is_whole = hashlib.sha256(raw).hexdigest() == row.scores_sha256
            self._scores[row.key] = _unpacked(raw) if is_whole else None
        return self._scores[row.key]


def _unpacked(raw: bytes) -> CellScores:
    with np.load(io.BytesIO(raw)) as found:
        return CellScores(
            nodes=tuple(map(str, found["nodes"])),
            labels=found["label"],
            groups=found["group"],
            held=found["held"],
            logits=found["logits"],
        )
