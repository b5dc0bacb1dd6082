"""What a study has found so far, read once: rows, missing cells, side files. Tables and figures are made of this.

A side file that is gone, or is not the one its row was made of, is left out, and whoever asks sees which seeds are
there.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hsl_study.cells import CellRow
from hsl_study.config import StudyConfig
from hsl_study.folder import Key, MissingCell, StudyFolder
from hsl_study.statistics import Groups, Labels, Panel, Scores

Domains = Literal["own", "all", "unseen"]


@dataclass(frozen=True)
class CellScores:
    """What one cell scored: N images. `held` (K, N): which are of a node's own domain; `unseen` (N,): of no node's."""

    nodes: tuple[str, ...]
    labels: Labels
    groups: Groups
    held: npt.NDArray[np.bool_]
    unseen: npt.NDArray[np.bool_]
    logits: Scores  # (K, N)

    def panels(self, domains: Domains) -> tuple[Panel, ...]:
        """Each node's model on its own domain, on those of all nodes, or on those of none."""
        return tuple(self.panel(node, domains) for node in self.nodes)

    def panel(self, node: str, domains: Domains) -> Panel:
        at = self.nodes.index(node)
        where = {"own": self.held[at], "all": ~self.unseen, "unseen": self.unseen}[domains]
        return Panel(self.logits[at, where], self.labels[where], self.groups[where])


@dataclass(frozen=True)
class CellFeatures:
    """What one cell's encoders made of M test images, before the first round and in the deployed models (M, D)."""

    nodes: tuple[str, ...]
    node: npt.NDArray[np.int64]  # (M,), its number
    labels: Labels
    before: Scores
    after: Scores


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
        found = {row.seed: self._scores_of(row) for row in self.of(scenario) if row.arm == arm}
        return {seed: scores for seed, scores in found.items() if scores is not None}

    def features(self, scenario: str, arm: str) -> Iterator[tuple[int, CellFeatures]]:
        """Seed by seed; not kept, they are large."""
        for row in self.of(scenario):
            if row.arm == arm and (raw := _whole(self.folder.features(row.key), row.features_sha256)) is not None:
                with np.load(io.BytesIO(raw)) as found:
                    nodes = tuple(map(str, found["nodes"]))
                    names = ("node", "label", "before", "after")
                    yield row.seed, CellFeatures(nodes, *(found[name] for name in names))

    def _scores_of(self, row: CellRow) -> CellScores | None:
        if row.key not in self._scores:
            raw = _whole(self.folder.scores(row.key), row.scores_sha256)
            self._scores[row.key] = None if raw is None else _unpacked(raw)
        return self._scores[row.key]


def _whole(path: Path, sha256: str | None) -> bytes | None:
    raw = path.read_bytes() if path.is_file() else b""
    return raw if hashlib.sha256(raw).hexdigest() == sha256 else None


def _unpacked(raw: bytes) -> CellScores:
    with np.load(io.BytesIO(raw)) as found:
        return CellScores(
            nodes=tuple(map(str, found["nodes"])),
            labels=found["label"],
            groups=found["group"],
            held=found["held"],
            unseen=found["unseen"],
            logits=found["logits"],
        )
