"""A study's folder: what it is, its data, and what is finished.

study.json             the configuration, paths resolved; another one is refused here once a cell has begun
sat*.safetensors       the shared anchor tasks, each drawn once
cache/                 the data set, decoded once
cells/<key>/           a cell under way; continued after a kill, gone when it is finished
scores/<key>.npz       every test image's logits
features/<key>.npz     if the study wants them: features of test images (features.py)
results.jsonl          finished cells in the order they finished; a line that a kill cut off is dropped
missing.jsonl          cells that the data cannot supply, with the reason
failed.log             what the last cell that failed unforeseen said, whole
scenarios.txt          what the images are and what each node got of them with the first seed
estimates.json         what was measured before the first cell: a study in pieces does so once
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from hsl_data.binding import SiteBinding
from hsl_data.phantoms import write_phantom_sites
from hsl_data.readers.npz import join_npz
from hsl_model.durable import write_bytes
from hsl_model.protocol.config import Message, TaskConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.manifest import canonical_json
from hsl_study.arm_sat import OWN
from hsl_study.cells import CellRow
from hsl_study.config import StudyConfig
from hsl_study.partition import Partition, ScenarioInfeasibleError, build_partition, offered_cases
from hsl_study.pool import Pool, load_pool
from hsl_study.sat_files import binding_of, named_source, write_bundles
from hsl_study.source_config import PhantomConfig

Key = tuple[str, str, int]  # scenario, arm, seed
Line = TypeVar("Line", bound=Message)


class MissingCell(Message):
    scenario: str
    arm: str
    seed: int
    reason: str


class StudyFolder:
    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` for a study.json that this version cannot read."""
        self.path = path
        try:
            self.config = StudyConfig.model_validate_json((path / "study.json").read_bytes())
        except ValidationError as error:
            reason = f"{path}: its study.json is damaged, or of another version of HeteroSync; use that one"
            raise ConfigError(reason=f"{reason}, or begin again in another --workdir") from error

    @classmethod
    def create(cls, config: StudyConfig, path: Path) -> "StudyFolder":
        """Begin the study in an empty folder or in place of one that trained nothing, or continue the same one. Raises
        `ConfigError` for another one that has begun."""
        path.mkdir(parents=True, exist_ok=True)
        identity, file = canonical_json(config), path / "study.json"
        if file.is_file() and file.read_bytes() != identity:
            if _has_begun(path):
                held = cls(path).config
                differs = ", ".join(key for key, value in config if value != getattr(held, key))
                raise ConfigError(
                    reason=f"{path} holds another study, which differs in {differs}; take another --workdir"
                )
            _forget(path)
        write_bytes(file, identity)
        return cls(path)

    # --- data ---

    def pool(self) -> Pool:
        """Raises the errors of `hsl_data.errors`; those about layout, classes and domains as `ConfigError`."""
        config = self.config
        if config.phantoms is not None:
            binding = _phantoms(config.phantoms, config.task, self.path)
        else:
            binding = binding_of(config.data, config.task, "data")
        bundles = write_bundles(config, self.path)
        with named_source("data", config.data):
            return load_pool(binding, config.task, bundles, self.path / "cache")

    def partition(self, pool: Pool, scenario: int, seed: int) -> Partition:
        """The same for all arms of a seed. Raises `ScenarioInfeasibleError` with the numbers."""
        wanted = self.config.scenarios[scenario]
        try:
            offered = offered_cases(pool.cases, self.config.score)
            counts = Counter((case.domain, case.label) for case in offered)
            domains = {domain: (counts[domain, 0], counts[domain, 1]) for domain, _ in counts}
            table = self.config.table(scenario, domains)
        except ValueError as error:
            raise ScenarioInfeasibleError(scenario=wanted.title, mode=self.config.mode, shortage=str(error)) from error
        return build_partition(table, pool.cases, self.config.mode, seed)

    # --- what is finished ---

    def rows(self) -> dict[Key, CellRow]:
        return {row.key: row for row in self._lines("results.jsonl", CellRow)}

    def missing(self) -> list[MissingCell]:
        return self._lines("missing.jsonl", MissingCell)

    def cell(self, key: Key) -> Path:
        return self.path / "cells" / ".".join(map(str, key))

    def scores(self, key: Key) -> Path:
        return self.path / "scores" / f"{'.'.join(map(str, key))}.npz"

    def features(self, key: Key) -> Path:
        return self.path / "features" / f"{'.'.join(map(str, key))}.npz"

    def finish(self, row: CellRow) -> None:
        """Its line is durable before the cell's models go. What a kill left of an earlier line is cut off first."""
        path = self.path / "results.jsonl"
        with path.open("ab+") as file:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.write(row.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(self.cell(row.key))

    def set_missing(self, cells: list[MissingCell]) -> None:
        write_bytes(self.path / "missing.jsonl", b"".join(cell.model_dump_json().encode() + b"\n" for cell in cells))

    def scenarios(self) -> str:
        path = self.path / "scenarios.txt"
        return path.read_text() if path.is_file() else ""

    def set_scenarios(self, lines: list[str]) -> None:
        write_bytes(self.path / "scenarios.txt", "".join(f"{line}\n" for line in lines).encode())

    def estimates(self) -> dict[str, float]:
        """Seconds of a cell, as a study that was stopped estimated them; the key says of what."""
        path = self.path / "estimates.json"
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}

    def set_estimates(self, seconds: Mapping[str, float]) -> None:
        write_bytes(self.path / "estimates.json", json.dumps(seconds, sort_keys=True).encode())

    def _lines(self, name: str, kind: type[Line]) -> list[Line]:
        path = self.path / name
        if not path.is_file():
            return []
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        try:
            return [kind.model_validate_json(line) for line in whole.splitlines()]
        except ValidationError as error:
            reason = f"{path} holds a line of another version; move it away to run its cells again"
            raise ConfigError(reason=reason) from error


def _has_begun(path: Path) -> bool:
    """Whether a cell has trained, or was about to."""
    return any((path / "cells").glob("*")) or (path / "results.jsonl").is_file()


def _forget(path: Path) -> None:
    """What was made for a study that never began: its anchors and phantoms, what was measured. The cache knows its
    source by itself."""
    made = (f"{OWN}.safetensors", f"{OWN}.*.safetensors", "phantoms.npz")
    for pattern in (*made, "scenarios.txt", "estimates.json", "missing.jsonl"):
        for file in path.glob(pattern):
            file.unlink()
    if (path / "phantoms").is_dir():
        shutil.rmtree(path / "phantoms")


def _phantoms(config: PhantomConfig, task: TaskConfig, folder: Path) -> SiteBinding:
    """All sites' phantoms in one archive; the site is the domain."""
    archive = folder / "phantoms.npz"
    if not archive.is_file():
        sites = write_phantom_sites(folder / "phantoms", config.sites, config.cases_per_site, task.height, config.seed)
        join_npz(archive, {path.stem: path for path in sites})
    classes = {"fractured": task.positive_class, "intact": task.negative_class}
    return SiteBinding(task_id=task.task_id, reader="npz", path=archive, classes=classes)
