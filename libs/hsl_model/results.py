"""A round's result in its workspace, and whose work the workspace holds.

shared.safetensors, private.safetensors, result.json last: a result that can be read is complete
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from hsl_model.checkpoint import FileFacts, sha256_file, write_tensors
from hsl_model.data import SiteData
from hsl_model.durable import write_bytes
from hsl_model.model_state import Arrays
from hsl_model.protocol.config import Message, Sha256
from hsl_model.protocol.manifest import UpdateMetrics, canonical_json
from hsl_model.round_work import RoundResult, RoundSpec

RESULT_VERSION = 1
_INDEX = "result.json"


class ResultFile(Message):
    name: str = Field(pattern=r"^(shared|private)\.safetensors$")
    sha256: Sha256
    num_bytes: int = Field(ge=0)


class ResultFacts(Message):
    version: int = RESULT_VERSION
    identity: Sha256
    shared: ResultFile
    private: ResultFile | None
    metrics: UpdateMetrics
    num_cases: int = Field(ge=0)


def work_identity(spec: RoundSpec, data: SiteData, start: Sequence[Path]) -> str:
    """Digest of everything that decides the result. Snapshots and results of other work are not continued."""
    facts = {
        "run_id": spec.run_id,
        "node_id": spec.node_id,
        "round_number": spec.round_number,
        "config": spec.config.model_dump(mode="json"),
        "start": [sha256_file(path) for path in start],
        "num_cases": [len(data.training), len(data.validation), len(data.sat) if data.sat is not None else 0],
    }
    if spec.styles:
        facts["styles"] = {node: style.model_dump(mode="json") for node, style in spec.styles.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FinishedWork:
    """What is known of a finished round besides its tensors."""

    identity: str
    metrics: UpdateMetrics
    num_cases: int


def write_result(workspace: Path, work: FinishedWork, tensors: Arrays, shared_names: frozenset[str]) -> RoundResult:
    """Part the shared epoch's tensors into what the node publishes and what it keeps, and make that the result."""
    shared = {name: array for name, array in tensors.items() if name in shared_names}
    private = {name: array for name, array in tensors.items() if name not in shared_names}
    result = RoundResult(
        shared=_write_shared(workspace / "shared.safetensors", shared),
        private=write_tensors(workspace / "private.safetensors", private) if private else None,
        metrics=work.metrics,
        num_cases=work.num_cases,
    )
    facts = ResultFacts(
        identity=work.identity,
        shared=_described(result.shared),
        private=None if result.private is None else _described(result.private),
        metrics=work.metrics,
        num_cases=work.num_cases,
    )
    write_bytes(workspace / _INDEX, canonical_json(facts))
    return result


def read_result(workspace: Path, identity: str) -> RoundResult | None:
    """The finished result of this very work; None where there is none, or its files are not what was written."""
    try:
        facts = ResultFacts.model_validate_json((workspace / _INDEX).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    files = [file for file in (facts.shared, facts.private) if file is not None]
    if facts.identity != identity or not all(_is_intact(workspace, file) for file in files):
        return None
    return RoundResult(
        shared=_facts_of(workspace, facts.shared),
        private=None if facts.private is None else _facts_of(workspace, facts.private),
        metrics=facts.metrics,
        num_cases=facts.num_cases,
    )


def _write_shared(path: Path, tensors: Arrays) -> FileFacts:
    """An empty file where nothing is shared: its digest is that of no bytes."""
    if tensors:
        return write_tensors(path, tensors)
    write_bytes(path, b"")
    return FileFacts(path=path, sha256=sha256_file(path), num_bytes=0)


def _described(file: FileFacts) -> ResultFile:
    return ResultFile(name=file.path.name, sha256=file.sha256, num_bytes=file.num_bytes)


def _facts_of(workspace: Path, file: ResultFile) -> FileFacts:
    return FileFacts(path=workspace / file.name, sha256=file.sha256, num_bytes=file.num_bytes)


def _is_intact(workspace: Path, file: ResultFile) -> bool:
    path = workspace / file.name
    return path.is_file() and path.stat().st_size == file.num_bytes and sha256_file(path) == file.sha256
