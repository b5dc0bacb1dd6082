"""One cell in a process of its own: `python -m hsl_study.cell_process FOLDER SCENARIO ARM SEED THREADS`.

The row goes to stdout as one line of JSON, an error of ours as its sentence to stderr with status 2.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from hsl_model.durable import write_bytes
from hsl_model.engine import EngineOptions
from hsl_model.memory import keep_all_freed_memory
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import canonical_json
from hsl_study.arm_data import arm_pool
from hsl_study.arms import Deployment
from hsl_study.cells import CellRow, run_cell
from hsl_study.features import collected
from hsl_study.folder import StudyFolder
from hsl_study.pretraining import started_from_sat


def run(folder: StudyFolder, scenario: int, arm_name: str, seed: int, num_threads: int) -> CellRow:
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
    options = EngineOptions(num_threads=num_threads, snapshot_every_steps=None)
    if arm.pretrain_rounds and pool.sat is not None:
        config = started_from_sat(config, pool.sat, arm.pretrain_rounds, folder.cell(key), options, arm.pretrain_from)
    where = Deployment(folder.cell(key), options, folder.config.deploy)
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
        versions=_versions(),
        num_threads=num_threads,
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


def main() -> None:
    path, scenario, arm, seed, num_threads = sys.argv[1:]
    keep_all_freed_memory()
    try:
        row = run(StudyFolder(Path(path)), int(scenario), arm, int(seed), int(num_threads))
    except HslError as error:
        sys.stderr.write(error.sentence() + "\n")
        sys.exit(2)
    sys.stdout.write(row.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
