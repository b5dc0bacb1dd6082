"""One cell in a process of its own: `python -m hsl_study.cell_process WORK`, a `CellWork` of cell_work.py as JSON.

A `CellReply` goes to stdout as one line of JSON, an error of ours as its sentence to stderr, with status `FORESEEN`.
When its time is up, or stdin closes because whoever started it is gone, it writes a snapshot and ends; the same work
goes on.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
import torch

from hsl_model.device import described, is_gpu, take_share
from hsl_model.durable import write_bytes
from hsl_model.engine import EngineOptions, Interrupted
from hsl_model.locking import locked
from hsl_model.memory import keep_all_freed_memory
from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import canonical_json
from hsl_study.arm_data import arm_pool
from hsl_study.arms import Deployment
from hsl_study.cell_work import FORESEEN, CellWork
from hsl_study.cells import CellReply, CellRow, run_cell
from hsl_study.features import collected
from hsl_study.federation import never
from hsl_study.folder import StudyFolder
from hsl_study.pretraining import started_from_sat

PLAIN = EngineOptions(snapshot_every_steps=None)
_SECONDS = "seconds.json"


def run(
    folder: StudyFolder,
    scenario: int,
    arm_name: str,
    seed: int,
    options: EngineOptions = PLAIN,
    should_stop: Callable[[], bool] = never,
) -> CellRow:
    """Train, or continue, and score. Raises `Interrupted` after `should_stop()`, and what the engine raises."""
    clock = SystemClock()
    begun = clock.monotonic()
    pool = folder.pool()
    partition = folder.partition(pool, scenario, seed)
    (arm,) = [arm for arm in folder.config.arms if arm.name == arm_name]
    nodes = tuple(node.node_id for node in partition.scenario.nodes)
    pool = arm_pool(arm.sat, pool, nodes, seed)
    config = folder.config.run_config(arm, nodes, seed, pool.sat_digest)
    key = (partition.scenario.name, arm_name, seed)
    scores = folder.scores(key)
    where = Deployment(folder.cell(key), options, folder.config.deploy, should_stop)
    if arm.pretrain_rounds and pool.sat is not None:
        how = options, arm.pretrain_from, should_stop
        config = started_from_sat(config, pool.sat, arm.pretrain_rounds, where.folder, *how)
    facts, scored = run_cell(arm, config, partition, pool, where)
    scores.parent.mkdir(exist_ok=True)
    write_bytes(scores, scored)
    featured = None
    if folder.config.features:
        featured = collected(arm, config, partition, pool, where, facts.deployed_round)
    if featured is not None:
        folder.features(key).parent.mkdir(exist_ok=True)
        write_bytes(folder.features(key), featured)
    return CellRow(
        scenario=partition.scenario.name,
        arm=arm_name,
        seed=seed,
        config_sha256=hashlib.sha256(canonical_json(config) + canonical_json(arm)).hexdigest(),
        scores_sha256=hashlib.sha256(scored).hexdigest(),
        features_sha256=None if featured is None else hashlib.sha256(featured).hexdigest(),
        versions=_versions() | {"device": described(options, config.training)},
        num_threads=options.num_threads,
        seconds=round(clock.monotonic() - begun, 1),
        **facts.model_dump(),
    )


def _versions() -> dict[str, str]:
    """`git` only where the code runs from its own checkout; a changed tree says so."""
    found = {"heterosync": version("heterosync"), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "numpy": np.__version__}
    root, git = Path(__file__).parents[2], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return found
    command = [git, "describe", "--always", "--dirty", "--abbrev=12"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return found if said.returncode else found | {"git": said.stdout.strip()}


def stopping(clock: Clock, stop_after_s: float | None) -> Callable[[], bool]:
    """True when the time is up, but not before a first step: pieces of any length come to an end. And as soon as stdin
    closes."""
    begun, asked, orphaned = clock.monotonic(), count(), threading.Event()

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing is ever sent
        orphaned.set()

    threading.Thread(target=wait, daemon=True).start()

    def should_stop() -> bool:
        is_first = next(asked) == 0
        is_up = stop_after_s is not None and clock.monotonic() - begun >= stop_after_s
        return orphaned.is_set() or (is_up and not is_first)

    return should_stop


class Warnings(logging.Handler):
    """What the log warns of, once each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.said[record.getMessage()] = None


def answer(work: CellWork, clock: Clock) -> CellReply:
    """Raises what `run` raises, but for `Interrupted`."""
    folder, (_, arm, seed) = StudyFolder(work.folder), work.key
    should_stop, warnings = stopping(clock, work.stop_after_s), Warnings()
    logging.getLogger().addHandler(warnings)
    if work.memory_share is not None and is_gpu(work.options.device):
        take_share(work.options.device, work.memory_share)
    cell, begun = folder.cell(work.key), clock.monotonic()
    with locked(cell / "lock"):
        earlier_s = _earlier_s(cell)
        try:
            row = run(folder, work.scenario, arm, seed, work.options, should_stop)
        except Interrupted:
            write_bytes(cell / _SECONDS, json.dumps(earlier_s + clock.monotonic() - begun).encode())
            return CellReply(row=None, warnings=tuple(warnings.said))
    row = row.model_copy(update={"seconds": round(earlier_s + row.seconds, 1)})
    return CellReply(row=row, warnings=tuple(warnings.said))


def _earlier_s(cell: Path) -> float:
    """Of the pieces in which it was stopped; those of a killed one are not known."""
    path = cell / _SECONDS
    return float(json.loads(path.read_bytes())) if path.is_file() else 0.0


def main() -> None:
    keep_all_freed_memory()
    try:
        reply = answer(CellWork.model_validate_json(sys.argv[1]), SystemClock())
    except HslError as error:
        sys.stderr.write(error.sentence() + "\n")
        sys.exit(FORESEEN)
    sys.stdout.write(reply.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
